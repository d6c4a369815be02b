#!/usr/bin/env bash
# What training takes on one GPU, in under three minutes and without any files: a step of the 1.3B teacher, of
# intra-shot and of inter-shot distribution matching at 832x480, and samples per second of the theatre's
# teacher. Appends a JSON line to DIR/answers.jsonl as each answer is known. Has not been run on a GPU.
#
#   bench/gpu_training.sh -o DIR             one GPU, bfloat16
#   bench/gpu_training.sh -o DIR --limit S   begins no question after S seconds
#   bench/gpu_training.sh -o DIR --tiny      the same path on a CPU at a tiny size: measures nothing
set -euo pipefail
cd "$(dirname "$0")/.."
python=python3
[ -x .venv/bin/python ] && python=.venv/bin/python
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTORCH_ALLOC_CONF=expandable_segments:True
exec "$python" -m shotstream.bench.training "$@"
