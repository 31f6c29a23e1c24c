#!/usr/bin/env bash
# Measure a CUDA machine: diffusers eager and compiled, the eager reference, and every engine library that is there.
# Random weights, no network. Writes docs/results/gpu.json and gpu.md row by row, and goes on from there when it is run
# again; options: scripts/bench_gpu.sh --help
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-.venv/bin/python}"
command -v "$python" >/dev/null || { echo "$python: not there; run make setup, or name one: PYTHON=... $0" >&2; exit 1; }
exec "$python" benchmarks/gpu.py "$@"
