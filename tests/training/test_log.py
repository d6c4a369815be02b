"""The log of a run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shotstream.training.checkpoint import Stateful
from shotstream.training.loop import train
from shotstream.training.recipe import TrainConfig


class Counting:
    """A stage whose loss is the number of its step."""

    batch_size = 3

    def step(self, step: int) -> Mapping[str, float]:
        return {"loss": float(step)}

    @property
    def state(self) -> Stateful:
        return self

    def training_data(self, step: int) -> dict[str, Any]:
        return {"number": step}

    def init_optimizer_state(self) -> None: ...

    def preview(self, step: int, directory: Path) -> Mapping[str, float]:
        del step, directory
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        del state


def test_a_line_of_the_log_is_the_mean_since_the_line_before(tmp_path: Path) -> None:
    """Not of all steps since the beginning, which hides where a loss is now."""
    train(Counting(), TrainConfig(num_steps=6, log_every=2, tensorboard=False), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(2, 0.5), (4, 2.5), (6, 4.5)]
