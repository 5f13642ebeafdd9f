#!/usr/bin/env bash
# GPU stages, each at most 8 minutes: builds the cuda preset and runs what is labelled for the stage.
# Results go to bench/results/ (or $OUT on a lent machine).
set -euo pipefail
cd "$(dirname "$0")/.."
stage=${1:-}
case "$stage" in kernels|model|bench|soak) ;; *) echo "usage: ./dev gpu kernels|model|bench|soak" >&2; exit 2 ;; esac
command -v nvidia-smi >/dev/null && nvidia-smi -L || { echo "gpu: this machine has no NVIDIA GPU" >&2; exit 1; }
cmake --preset cuda && ninja -C build/cuda
count=$(ctest --test-dir build/cuda -N -L "^gpu_$stage$" | sed -n 's/^Total Tests: //p')
[ "$count" -gt 0 ] || { echo "gpu: no test is labelled gpu_$stage yet (the CUDA backend is a later issue)" >&2; exit 1; }
timeout 480 ctest --test-dir build/cuda -L "^gpu_$stage$" --output-on-failure | tee "${OUT:-bench/results}/gpu-$stage.log"
