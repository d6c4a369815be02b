"""What the other stages' steps must do: one update at the rate of the run, one average; levels; histories."""

from collections.abc import Callable
from itertools import combinations
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from shotstream.data.rendered_clips import RenderedClips
from shotstream.data.story_captions import StoryCaptions, StoryCaptionsConfig
from shotstream.diffusion.schedule import FlowSchedule
from shotstream.geometry import LatentSize
from shotstream.theatre.palette import NAMES
from shotstream.training.recipes import recipe
from shotstream.training.stages import inter_shot
from shotstream.training.stages.codec import CodecStage
from shotstream.training.stages.decoder import DecoderStage
from shotstream.training.stages.inter_shot import InterShotRecipe, inter_shot_stage
from shotstream.training.stages.ode_pairs import OdePairsRecipe, OdePairsStage
from shotstream.vae.codec import Codec
from shotstream.vae.patch_codec import PatchCodec, PatchCodecConfig
from tests.training.test_decoder import built, decoder
from tests.training.test_dmd import matching
from tests.training.test_run import CODEC
from tests.training.test_student import pairs


def codec_stage() -> tuple[CodecStage, nn.Module]:
    made = recipe("theatre_codec", [*CODEC, "train.num_steps=80", "optim.ema_decay=0.5"])
    stage = CodecStage(made, RenderedClips(made.data, seed=made.train.seed))
    return stage, stage.codec


def decoder_stage(*more: str) -> tuple[DecoderStage, nn.Module]:
    tiny = ("model.num_finish_layers=1", "model.finish_dim=8")
    own = ("optim.decay_steps=40", "optim.warmup_steps=30", "optim.ema_decay=0.5")
    stage = built(decoder(80, *own, *tiny, *more))
    return stage, stage.codec


@pytest.mark.parametrize(
    ("made", "rates", "name"),
    [
        # warm-up of 30 steps, and a fall to zero over all 80
        (codec_stage, {0: 1 / 30, 39: 41 / 80, 79: 1 / 80}, "colours.weight"),
        # a fall over the last 40
        (decoder_stage, {0: 1 / 30, 39: 1.0, 60: 0.5}, "head.weight"),
    ],
)
def test_a_step_updates_once_at_the_rate_of_its_run_and_averages_once(
    made: Callable[[], tuple[Any, nn.Module]], rates: dict[int, float], name: str
) -> None:
    stage, module = made()
    asked: list[float] = []
    optimise = stage.state.optimizer.step

    def step_of(rate: float) -> Tensor:
        asked.append(rate)
        assert any(value.grad is not None for value in module.parameters())
        return optimise(rate)

    stage.state.optimizer.step = step_of
    expected = module.get_parameter(name).detach().double()
    for step, kept in zip(rates, (1 / 10, 2 / 11, 3 / 12), strict=True):
        before = module.get_parameter(name).detach().clone()
        stage.step(step)
        value = module.get_parameter(name).detach().clone()
        assert not torch.equal(before, value)
        expected = kept * expected + (1 - kept) * value.double()
    assert asked == pytest.approx(list(rates.values()))
    assert stage.state.ema.num_updates == 3
    torch.testing.assert_close(stage.state.ema.average[name].double(), expected, rtol=1e-5, atol=1e-7)
    state = stage.state.state_dict()
    assert torch.equal(state["ema"][name], stage.state.ema.average[name])
    assert torch.equal(state["weights"][name], module.get_parameter(name))


def test_a_trajectory_steps_evenly_between_the_students_levels() -> None:
    """The levels of 1000, 740, 500 and 260, shifted by 3, and two halves of each way."""
    stage = OdePairsStage.__new__(OdePairsStage)
    stage.recipe = cast("OdePairsRecipe", pairs(1))
    stage.schedule = FlowSchedule(shift=stage.recipe.model.shift)
    kept = [3 * s / (1 + 2 * s) for s in (1.0, 0.74, 0.5, 0.26)] + [0.0]
    found = stage._levels().tolist()  # pyright: ignore[reportPrivateUsage]
    assert found[::2] == pytest.approx(kept)
    assert found[1::2] == pytest.approx([(kept[one] + kept[one + 1]) / 2 for one in range(4)])


def test_the_students_own_history_is_filmed_anew_for_every_shot_sample_and_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With all steps, without gradient, from noise that no other shot has, each by its own captions."""
    third = "data.shot_weights=[0.0, 0.0, 1.0]"
    made = cast("InterShotRecipe", matching("theatre_inter_shot", 4, third, "stage.lora_rank=0"))
    torch.manual_seed(0)
    student, teacher = (made.model.build() for _ in range(2))
    codec = PatchCodec(PatchCodecConfig(num_colours=len(NAMES), dim=16, num_decoder_layers=1)).eval()
    stage = inter_shot_stage(
        made,
        student=student,
        teacher=teacher,
        codec=cast("Codec", codec),
        latent_size=LatentSize(6, 10),
        captions=StoryCaptions(cast("StoryCaptionsConfig", made.data), made.model.dit, seed=made.train.seed),
    )
    seeds: list[int] = []
    shots: list[tuple[int, bool]] = []
    real = inter_shot.student_rollout

    def rollout(*given: Any, **named: Any) -> Any:
        seeds.extend(named["seeds"])
        shots.append((len(named["seeds"]), torch.is_grad_enabled()))
        assert len(given[3]) == 4, "all of the student's levels"
        return real(*given, **named)

    monkeypatch.setattr(inter_shot, "student_rollout", rollout)
    batches = [stage.source.batch(step, range(2)) for step in (0, 1)]
    assert shots == [(2, False)] * 4, "two shots before the third, in each of two steps"
    assert all(one != other for one, other in combinations(seeds, 2))
    for batch in batches:
        assert [len(rows) for rows in batch.captions] == [3, 3]
        assert all(len(set(rows)) == 3 for rows in batch.captions)
        assert batch.conditioning.context.shape[1:3] == (16, 6)
        assert batch.conditioning.context.abs().sum() > 0
    assert batches[0].captions != batches[1].captions
    alone = stage.source.batch(0, range(1, 2))
    assert seeds[-2] == seeds[1] and alone.captions == batches[0].captions[1:]
