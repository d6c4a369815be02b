"""Guidance by captions and by context: one line through the predictions, and no question asked in vain."""

import pytest
import torch
from torch import Tensor

from shotstream.diffusion.samplers import VelocityFunction
from shotstream.geometry import LatentSize
from shotstream.model.config import DiTConfig
from shotstream.streaming.conditioning import (
    Conditioning,
    condition_next_shot,
    drop_context,
    first_shot_conditioning,
)
from shotstream.streaming.shot_memory import ShotMemory
from shotstream.training.velocity import guided_velocity

SIZE = LatentSize(2, 2)
TEXT, FREE = torch.full((1, 1, 1, 4), 3.0), torch.zeros(1, 1, 1, 4)


def config() -> DiTConfig:
    return DiTConfig(
        latent_channels=1,
        dim=12,
        ffn_dim=24,
        num_heads=2,
        num_layers=1,
        text_dim=4,
        text_length=2,
        freq_dim=8,
    )


def later_shot() -> Conditioning:
    memory = ShotMemory(
        caption="", num_frames=9, candidate_frames=tuple(range(9)), latents=torch.full((9, 1, 2, 2), 5.0)
    )
    return condition_next_shot([memory, memory], "", config(), SIZE, "theatre").conditioning


class Asked:
    """Says context plus caption, one number each, and what it was asked."""

    def __init__(self) -> None:
        self.questions: list[tuple[float, float]] = []

    def __call__(self, conditioning: Conditioning, text: Tensor) -> VelocityFunction:
        context, caption = conditioning.context.max().item(), text.max().item()

        def velocity(noisy: Tensor, sigma: Tensor) -> Tensor:
            del sigma
            self.questions.append((context, caption))
            return torch.full_like(noisy, 10 * context + caption)

        return velocity


@pytest.mark.parametrize(
    ("captions", "context", "wanted", "num_asked"),
    [
        (1.0, 1.0, 53.0, 1),
        (2.0, 1.0, 53.0 + 3.0, 2),
        (1.0, 3.0, 53.0 + 2 * 50.0, 2),
        (2.0, 3.0, 53.0 + 3.0 + 2 * 50.0, 3),
        (0.0, 1.0, 50.0, 2),
        (1.0, 0.0, 3.0, 2),
    ],
)
def test_the_prediction_is_moved_along_each_difference(
    captions: float, context: float, wanted: float, num_asked: int
) -> None:
    ask = Asked()
    moved = guided_velocity(ask, later_shot(), TEXT, FREE, captions=captions, context=context)(
        torch.zeros(1, 1, 3, 2, 2), torch.zeros(1, 3)
    )
    assert (moved == wanted).all()
    assert len(ask.questions) == num_asked
    assert ask.questions[0] == (5.0, 3.0)
    assert ((0.0, 3.0) in ask.questions) == (context != 1.0), "without context the captions are kept"


def test_a_first_shot_has_no_context_to_be_guided_by() -> None:
    shot = first_shot_conditioning(config(), SIZE, batch=2)
    dropped = drop_context(shot, torch.ones(2, dtype=torch.bool))
    for one, other in ((shot.context, dropped.context), (shot.target_phase, dropped.target_phase)):
        assert torch.equal(one, other)
    for name in ("shot_phase", "caption_index"):
        assert torch.equal(getattr(shot.positions, name), getattr(dropped.positions, name))
    ask = Asked()
    first = first_shot_conditioning(config(), SIZE)
    moved = guided_velocity(ask, first, TEXT, FREE, captions=1.0, context=3.0)
    assert (moved(torch.zeros(1, 1, 3, 2, 2), torch.zeros(1, 3)) == 3.0).all()
