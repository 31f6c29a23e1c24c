#!/usr/bin/env bash
# Fuzz the C++ runtime's readers of manifests, tensor headers and ONNX initializers for some seconds; needs clang.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}
if ! command -v clang++ > /dev/null; then
    echo "not fuzzed: clang++ was not found (Debian and Ubuntu: apt install clang)"
    exit 0
fi
(cd runtime/cpp && cmake --preset fuzz && cmake --build --preset fuzz --target fuzz_manifest)
corpus=build/cpp-fuzz/corpus
mkdir -p "$corpus"
for bundle in tests/golden/*/; do
    cp "$bundle/manifest.json" "$corpus/manifest-$(basename "$bundle")"
    cp "$bundle/tables.safetensors" "$corpus/tables-$(basename "$bundle")"
    cp "$bundle/step-01.onnx" "$corpus/step-$(basename "$bundle")"
done
build/cpp-fuzz/bin/fuzz_manifest -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 "$corpus"
