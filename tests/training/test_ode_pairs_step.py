"""What a step of the pairs' stage must do: which chunk of a shot, after what, from which noise, and how."""

import hashlib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from shotstream.data.batches import ShotBatch
from shotstream.geometry import LatentSize
from shotstream.streaming.conditioning import first_shot_conditioning
from shotstream.training.stages import ode_pairs
from shotstream.training.stages.ode_pairs import OdePairsStage
from tests.training.test_student import pairs

NUM_FRAMES, SHIFT, SUBSTEPS = 9, 3.0, 2
KEPT = [SHIFT * s / (1 + (SHIFT - 1) * s) for s in (1.0, 0.74, 0.5, 0.26)] + [0.0]


def seed_of(*keys: object) -> int:
    digest = hashlib.blake2b("/".join(map(str, keys)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") // 2


class Says:
    """A velocity that is known: a tenth of what is shown; it remembers what it was made for."""

    made: list[tuple[Any, Tensor]]

    def __init__(self, dit: object, conditioning: object, text: Tensor, history: Tensor) -> None:
        del dit, conditioning
        self.made.append((text, history))

    def __call__(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        assert (sigma == sigma[:, :1]).all()
        return 0.1 * noisy


def stage_of(monkeypatch: pytest.MonkeyPatch, *more: str) -> tuple[OdePairsStage, Tensor]:
    made = pairs(1, "stage.guidance=1.0", "stage.context_guidance=1.0", *more)
    assert made.data.caption_drop == 0, (
        "guidance asks with captions and without, so none is left out by chance"
    )
    torch.manual_seed(0)
    model = made.model.build()
    x0 = torch.randn(2, 16, NUM_FRAMES, 2, 4, generator=torch.Generator().manual_seed(1))

    class Drawn:
        def batch(self, step: int, samples: range) -> ShotBatch:
            del step
            rows = slice(samples.start, samples.stop)
            given = first_shot_conditioning(made.model.dit, LatentSize(2, 4), batch=len(samples))
            return ShotBatch(x0[rows], x0[rows, 0] > 0, given, [["A fox."]] * len(samples), samples)

    stage = OdePairsStage(made, Drawn(), model, Path())
    Says.made = []
    monkeypatch.setattr(ode_pairs, "CausalVelocity", Says)
    monkeypatch.setattr(ode_pairs, "shot_velocity", lambda _dit, _seen, _told, noisy, _sigma: 0.1 * noisy)
    return stage, x0


def walked(stage: OdePairsStage, step: int, num_frames: int) -> Tensor:
    """The kept states, written out: noise of each sample's own key, then Euler's steps, two between two."""
    seed = stage.recipe.train.seed
    noise = [
        torch.randn(
            16, num_frames, 2, 4,
            generator=torch.Generator().manual_seed(seed_of(seed, "pairs/noise", step, one)),
        )
        for one in range(2)
    ]  # fmt: skip
    states = [torch.stack(noise).double()]
    for here, there in pairwise(KEPT):
        state = states[-1]
        for _ in range(SUBSTEPS):
            state = state + (there - here) / SUBSTEPS * 0.1 * state
        states.append(state)
    return torch.stack(states, dim=1)


def test_pairs_are_of_any_chunk_of_a_shot_after_its_true_earlier_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage, x0 = stage_of(monkeypatch)
    firsts: list[int] = []
    for step in range(40):
        made = stage.make(step)
        first = made.history.shape[2]
        firsts.append(first)
        assert torch.equal(made.history, x0[:, :, :first])
        assert torch.equal(Says.made[-1][1], x0[:, :, :first])
        assert made.states.shape == (2, 5, 16, 3, 2, 4)
        torch.testing.assert_close(made.states.double(), walked(stage, step, 3), rtol=1e-5, atol=1e-6)
    assert set(firsts) == {0, 3, 6}
    assert all(firsts.count(first) >= 5 for first in (0, 3, 6)), "each is as likely: 13 of 40"
    alone = stage.make(0, range(1, 2))
    whole = stage.make(0)
    assert torch.equal(alone.states, whole.states[1:]), "a sample is the same in any part of the batch"


def test_pairs_of_a_bidirectional_teacher_are_whole_shots(monkeypatch: pytest.MonkeyPatch) -> None:
    stage, _ = stage_of(monkeypatch, 'stage.flow="bidirectional"')
    made = stage.make(3)
    assert made.history.shape[2] == 0 and not Says.made
    torch.testing.assert_close(made.states.double(), walked(stage, 3, NUM_FRAMES), rtol=1e-5, atol=1e-6)


def test_a_chunk_has_the_caption_of_its_side_of_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its history is told that caption too: a steered session commits it again."""
    stage, x0 = stage_of(monkeypatch)
    source = stage.source

    class Turning:
        def batch(self, step: int, samples: range) -> ShotBatch:
            drawn = source.batch(step, samples)
            turns = replace(
                drawn.conditioning, target_caption=torch.tensor([1, 1]), turn_frame=torch.tensor([3, 6])
            )
            return drawn._replace(conditioning=turns, captions=[["A fox walks.", "A fox naps."]] * 2)

    stage.source = Turning()
    found: set[tuple[int, tuple[int, ...]]] = set()
    for step in range(20):
        made = stage.make(step)
        assert made.conditioning.turn_frame is None
        first = made.history.shape[2] // 3
        found.add((first, tuple(made.conditioning.target_caption.tolist())))
    assert found == {(0, (0, 0)), (1, (1, 0)), (2, (1, 1))} and x0.shape[2] == 9
