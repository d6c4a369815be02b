"""Every stage on another device than the CPU. There is none here: the device meta computes nothing, but
refuses to mix what lies on it with what does not, which is where a stage would fail on a GPU.
"""

import contextlib
from pathlib import Path

import pytest
import torch
from torch import Tensor

from shotstream.data.ode_pairs import OdePairs
from shotstream.data.rendered_clips import RenderedClips
from shotstream.training.recipe import AnyRecipe
from shotstream.training.run import default_device, run_recipe
from shotstream.training.stage_builders import build_stage
from shotstream.training.stages.causal_init import CausalInitStage
from shotstream.training.stages.codec import CodecStage
from shotstream.training.stages.dmd import DmdStage
from shotstream.training.stages.ode_pairs import OdePairsStage
from shotstream.training.stages.teacher import TeacherStage
from tests.training.test_dmd import matching
from tests.training.test_run import codec, teacher
from tests.training.test_student import pairs, student

ALL = range(2)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("runs")
    for one in (codec(1), teacher(1), pairs(2), student(1), matching("theatre_intra_shot", 2)):
        run_recipe(one, directory)
    return directory


@pytest.fixture
def meta(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """The device; it has no autocast, and what comes back from it is nothing."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    cpu = Tensor.cpu
    monkeypatch.setattr(
        Tensor, "cpu", lambda self: torch.zeros(self.shape, dtype=self.dtype) if self.is_meta else cpu(self)
    )
    monkeypatch.setattr("shotstream.training.stage_builders._check_device", lambda _: None)
    return torch.device("meta")


def test_the_codec(meta: torch.device) -> None:
    made = codec(1)
    stage = CodecStage(made, RenderedClips(made.data, seed=0), meta)
    loss, _ = stage._loss(0, range(1))  # pyright: ignore[reportPrivateUsage]
    loss.backward()
    assert {value.device for value in stage.codec.parameters()} == {meta}


@pytest.mark.slow
@pytest.mark.parametrize("causal", [False, True])
def test_the_teacher(runs: Path, meta: torch.device, causal: bool) -> None:
    """Noise once stayed on the CPU in stages where nothing is computed."""
    stage = build_stage(teacher(1), runs, meta)
    assert isinstance(stage, TeacherStage)
    batch = stage.source.batch(0, ALL)
    loss = stage.loss(stage.model, batch, 0, causal=causal)
    loss.backward()
    assert loss.device == meta


@pytest.mark.slow
@pytest.mark.parametrize("flow", ["causal", "bidirectional"])
def test_pairs_are_made_there_and_kept_here(runs: Path, meta: torch.device, flow: str) -> None:
    stage = build_stage(pairs(1, f"stage.flow={flow}"), runs, meta)
    assert isinstance(stage, OdePairsStage)
    made = stage.make(0)
    assert {made.states.device.type, made.history.device.type} == {"cpu"}


def test_the_causal_initialisation(runs: Path, meta: torch.device) -> None:
    stage = build_stage(student(1), runs, meta)
    assert isinstance(stage, CausalInitStage)
    read = OdePairs.read(stage.source.files[0])
    loss = stage.loss(read, torch.zeros(len(read.states), 1, dtype=torch.long))
    loss.backward()
    assert loss.device == meta


@pytest.mark.slow
@pytest.mark.parametrize("name", ["theatre_intra_shot", "theatre_inter_shot"])
def test_distribution_matching(runs: Path, meta: torch.device, name: str) -> None:
    stage = build_stage(matching(name, 2, "data.shot_weights=[0.0, 1.0]"), runs, meta)
    assert isinstance(stage, DmdStage)
    (part,) = stage.microbatches(0)
    assert part.batch.conditioning.context.device == part.text.device == meta
    with torch.no_grad():
        x0 = stage.rollout(part.batch, part.text, (0, 0))
    stage.fake_loss(part.batch, part.text, x0, (0, 0)).backward()
    loss, gradient = stage.student_loss(part.batch, part.text, part.uncond, (0, 1))
    loss.backward()
    assert {x0.device, loss.device, gradient.device} == {meta}


def test_a_device_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing is computed"):
        build_stage(codec(1), tmp_path, "meta")
    with pytest.raises(ValueError, match="cannot be used here"):
        build_stage(teacher(1), tmp_path, "abacus")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    "recipe",
    [codec(1), teacher(1), student(1), *(matching(f"theatre_{name}_shot", 2) for name in ("intra", "inter"))],
    ids=lambda recipe: recipe.name,
)
def test_a_gpu_learns_what_a_cpu_learns(runs: Path, recipe: AnyRecipe) -> None:
    """The first step's losses; a GPU multiplies in another order, and the teacher in bfloat16 by default."""
    assert default_device() == "cuda"
    scalars = [dict(build_stage(recipe, runs, device).step(0)) for device in ("cpu", "cuda")]
    for name in (name for name in scalars[0] if "loss" in name):
        assert scalars[1][name] == pytest.approx(scalars[0][name], rel=0.05)
