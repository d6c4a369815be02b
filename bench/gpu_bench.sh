#!/usr/bin/env bash
# Everything about the 1.3B model at 832x480 on one GPU, from random weights, full VAE, text encoder and H.264
# included. What matters most comes first, and each result is written as soon as it is known.
#
#   bench/gpu_bench.sh -o DIR [--limit SECONDS]   one GPU; DIR gets results.jsonl, results.md and log.txt
#   bench/gpu_bench.sh -o DIR --tiny              the same way on a CPU at a tiny size: measures nothing
#
# Needs no installation: Python with torch, transformers and typer in it; .venv/bin/python where that is there.
# Any further options go to `shotstream bench all`.
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
python=python3
[ -x "$root/.venv/bin/python" ] && python="$root/.venv/bin/python"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false
export HF_HUB_OFFLINE=1
# Engines follow one another in one process: blocks of memory grow instead of falling to pieces.
export PYTORCH_ALLOC_CONF="${PYTORCH_ALLOC_CONF:-expandable_segments:True}"

model=(--model wan-1.3b --random --size 480x832 --device cuda)
for option in "$@"; do
  [ "$option" = --tiny ] && model=(--model wan-tiny --random --size 32x48 --device cpu)
done
exec "$python" -m shotstream.cli bench all "${model[@]}" "$@"
