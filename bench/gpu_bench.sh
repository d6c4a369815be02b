#!/usr/bin/env bash
# Everything about the 1.3B model at 832x480 on one GPU, in under ten minutes and without its files: random
# weights, full VAE, text encoder and H.264 included. Writes bench/results/all_<gpu>_<date>.md as it goes.
#
#   bench/gpu_bench.sh                 one GPU, bfloat16
#   bench/gpu_bench.sh --tiny          the same path on a CPU at a tiny size: checks the script, measures nothing
#
# Any further options go to `shotstream bench all`.
set -euo pipefail
cd "$(dirname "$0")/.."
python=python3
[ -x .venv/bin/python ] && python=.venv/bin/python

if [ "${1:-}" = --tiny ]; then
  shift
  exec "$python" -m shotstream.cli bench all --model wan-tiny --random --size 32x48 --device cpu \
    --chunks 2 --repeats 2 --stories 1 --shots 2 --last-shot 10 "$@"
fi
gpu=$("$python" -c 'import torch; print(torch.cuda.get_device_name().replace(" ", "-").lower())')
exec "$python" -m shotstream.cli bench all --model wan-1.3b --random --size 480x832 --device cuda \
  --dtype bfloat16 -o "bench/results/all_${gpu}_$(date -u +%F).md" "$@"
