"""A tiny codec of the theatre's clips is trained for some steps, stopped half-way, and goes on.

    python examples/train_tiny.py

`shotstream train theatre_codec --set train.num_steps=40 ...` does the same. Clips are drawn as it goes on.
"""

import json
from pathlib import Path

from shotstream.training.recipes import recipe
from shotstream.training.run import run_recipe

SETTINGS = (
    "model.dim=48",
    "model.num_encoder_layers=1",
    "model.num_decoder_layers=1",
    "data.batch_size=4",
    "optim.warmup_steps=4",
    "train.num_steps=40",
    "train.save_every=20",
    "train.log_every=10",
)


def main(runs: Path = Path("runs")) -> list[float]:
    """The losses of steps 10, 20, 30 and 40; its checkpoints are in `runs/theatre_codec`."""
    run_recipe(recipe("theatre_codec", (*SETTINGS, "train.stop_at=20")), runs)  # as if it was interrupted
    run_recipe(recipe("theatre_codec", SETTINGS), runs)  # the same call goes on where it stood
    log = (runs / "theatre_codec" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry["loss"] for entry in map(json.loads, log) if "loss" in entry]


if __name__ == "__main__":
    print(main())
