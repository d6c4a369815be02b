#!/usr/bin/env bash
# What training takes on one GPU, in under three minutes and without any files: a step of the 1.3B teacher, of
# intra-shot and of inter-shot distribution matching at 832x480, and samples per second of the theatre's
# teacher. Appends a JSON line to DIR/results.jsonl as each result is known. Has not been run on a GPU.
#
#   bench/gpu_training.sh -o DIR             one GPU, bfloat16
#   bench/gpu_training.sh -o DIR --limit S   starts no benchmark after S seconds
#   bench/gpu_training.sh -o DIR --tiny      the same path on a CPU at a tiny size: measures nothing
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
python=python3
[ -x "$root/.venv/bin/python" ] && python="$root/.venv/bin/python"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
# Steps of several kinds in one process: blocks of memory grow instead of falling to pieces.
export PYTORCH_ALLOC_CONF=expandable_segments:True
exec "$python" -m shotstream.bench.training "$@"
