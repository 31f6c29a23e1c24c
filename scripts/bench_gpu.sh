#!/usr/bin/env bash
# Measure a CUDA machine: diffusers eager and compiled, the eager reference, and every engine library that is there.
# Random weights, no network. Writes docs/results/gpu.json and gpu.md; options: python benchmarks/gpu.py --help
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-.venv/bin/python}" benchmarks/gpu.py "$@"
