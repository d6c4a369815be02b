"""Every student that is known: its files are found, checked and imported, and it makes films."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from shotstream.configs import config_to_document
from shotstream.empty_weights import init_empty_weights
from shotstream.geometry import VideoGeometry
from shotstream.model.config import wan_14b
from shotstream.model.dit import DiT
from shotstream.streaming.loading import load
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.streaming.session import StorySession
from shotstream.weights.bundle import read_bundle, write_bundle
from shotstream.weights.file_kinds import CheckpointError
from shotstream.weights.hub import import_weights
from shotstream.weights.key_names import dit_shapes
from shotstream.weights.students import STUDENTS, Student
from tests.weights.conftest import TinyModel, random_tensors

FILM_STUDENTS = [student for student in STUDENTS.values() if student.rules is not None]
_SIZE = {"height": 16, "width": 16}
_Q = "blocks.0.self_attn.q"


def checkpoint(student: Student, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """A checkpoint as the student's repository has it."""
    if student.name == "causal-rcm":
        patches = {"patch_embedding.weight": tensors["patch_embedding.weight"].flatten(1)}
        named = {f"net.{name}": tensor for name, tensor in {**tensors, **patches}.items()}
        return {**named, "net.accum_video_sample_counter": torch.zeros(())}
    wrapper = "model._fsdp_wrapped_module." if student.keys[0] == "generator_ema" else "model."
    named = {f"{wrapper}{name}": tensor for name, tensor in tensors.items()}
    return {student.keys[0]: named} if student.keys[0] else named


def write_published(tiny: TinyModel, student: Student, directory: Path) -> dict[str, Tensor]:
    """Writes base, checkpoint and LoRA into one directory; returns the tensors that an import must give."""
    tiny.write_original(directory)
    tensors = random_tensors(dit_shapes(tiny.dit_config), 5)
    path = directory / "student" / student.files[0]
    path.parent.mkdir(parents=True)
    torch.save(checkpoint(student, tensors), path)
    if student.lora is not None:
        down, up = torch.randn(2, 24), torch.randn(24, 2)
        lora = directory / "student" / student.lora.file
        lora.parent.mkdir(parents=True, exist_ok=True)
        halves = {f"base_model.model.{_Q}.lora_A.weight": down, f"base_model.model.{_Q}.lora_B.weight": up}
        torch.save({"generator_lora": halves}, lora)
        tensors[f"{_Q}.weight"] = (tensors[f"{_Q}.weight"].double() + up.double() @ down.double()).float()
    return tensors


def imported(tiny: TinyModel, student: Student, directory: Path, **engine: object) -> Path:
    """A bundle of the student, small enough for a film on a CPU."""
    write_published(tiny, student, directory / "wan")
    first = read_bundle(
        import_weights(tiny.source(directory / "wan"), as_=student.name, out=directory / "as imported")
    )
    settings = {**first.config["engine"], "pixel_size": _SIZE, **engine}
    parts = {**first.tensors, "dit": {name: t * 0.05 for name, t in first.tensors["dit"].items()}}
    config = {**first.config, "engine": settings}
    write_bundle(directory / student.name, config, parts, files=first.files)
    return directory / student.name


def shot(session: StorySession, caption: str, num_chunks: int = 3, **options: Any) -> np.ndarray:
    return np.concatenate([chunk.frames for chunk in session.shot(caption, num_chunks=num_chunks, **options)])


@pytest.mark.parametrize("student", FILM_STUDENTS, ids=lambda student: student.name)
def test_a_student_is_found_merged_and_imported_with_its_rules(
    tiny: TinyModel, tmp_path: Path, student: Student
) -> None:
    expected = write_published(tiny, student, tmp_path / "wan")
    notes: list[str] = []
    bundle = read_bundle(
        import_weights(tiny.source(tmp_path / "wan"), as_=student.name, out=tmp_path / "b", notes=notes)
    )
    assert bundle.tensors["dit"].keys() == expected.keys()
    assert all(torch.equal(bundle.tensors["dit"][name], tensor) for name, tensor in expected.items())
    assert bundle.provenance["student"] == student.name
    assert notes[-1] == f"{student.name}: {student.note}"
    dit = bundle.config["dit"]
    assert (dit["num_context_frames"], dit["chunk_latent_frames"]) == (0, student.chunk_frames)


@pytest.mark.parametrize("student", FILM_STUDENTS, ids=lambda student: student.name)
def test_a_story_of_two_shots_is_the_same_again_saved_cut_and_branched(
    tiny: TinyModel, tmp_path: Path, student: Student
) -> None:
    pipeline = load(imported(tiny, student, tmp_path), "cpu")
    session = pipeline.session("a red fox", seed=3)
    first, second = shot(session, "runs"), shot(session, "in the snow")
    assert len(first) == pipeline.geometry.shot_num_frames(3) and not np.array_equal(first, second)
    again = pipeline.session("a red fox", seed=3)
    assert np.array_equal(shot(again, "runs"), first)
    again.save(tmp_path / "saved")
    resumed = pipeline.load_session(tmp_path / "saved")
    assert np.array_equal(shot(resumed, "in the snow"), second)
    # A shot that is cut has the frames of the whole one, and the next one does not depend on it.
    assert np.array_equal(shot(again, "in the snow", 2), second[: pipeline.geometry.shot_num_frames(2)])
    again.undo()
    branch = again.fork()
    assert np.array_equal(shot(branch, "in the snow"), second)
    with pytest.raises(ValueError, match="no memory across shots, so that no picture can be pinned"):
        session.pin(first[0], 0)


def framewise(tiny: TinyModel, directory: Path, **engine: object) -> StreamingPipeline:
    return load(imported(tiny, STUDENTS["causal-forcing-2step"], directory, **engine), "cpu")


def test_a_framewise_student_may_begin_with_the_last_frame_of_the_shot_before(
    tiny: TinyModel, tmp_path: Path
) -> None:
    fresh = framewise(tiny, tmp_path / "none").session("a red fox")
    kept = framewise(tiny, tmp_path / "last", context_policy="last_frame").session("a red fox")
    assert np.array_equal(shot(fresh, "runs"), shot(kept, "runs"))
    *_, last = kept.shots[0].latents
    [latent] = [chunk.latents for chunk in kept.shot("in the snow", num_chunks=1)]
    assert torch.equal(latent[0, :, 0], last)
    kept.undo()
    assert not np.array_equal(shot(fresh, "in the snow"), shot(kept, "in the snow"))
    kept.save(tmp_path / "saved")
    pipeline = framewise(tiny, tmp_path / "again", context_policy="last_frame")
    resumed = pipeline.load_session(tmp_path / "saved")
    assert np.array_equal(shot(resumed, "a fox"), shot(kept, "a fox"))
    # The policy of a session, whichever is the model's own; a saved session keeps it.
    other = framewise(tiny, tmp_path / "other")
    assert other.context_policies == ("none", "last_frame")
    named, own = other.session("a red fox", policy="last_frame"), pipeline.session("a red fox")
    for caption in ("runs", "in the snow"):
        assert np.array_equal(shot(named, caption), shot(own, caption))
    named.save(tmp_path / "named")
    loaded = other.load_session(tmp_path / "named")
    assert loaded.context_policy == "last_frame" and other.context_policy == "none"
    assert np.array_equal(shot(loaded, "a fox"), shot(named, "a fox"))


def test_a_student_whose_first_frame_is_alone_has_shots_of_its_own_lengths(
    tiny: TinyModel, tmp_path: Path
) -> None:
    student = STUDENTS["self-forcing"]
    assert student.rules is not None
    rules = config_to_document(replace(student.rules, first_chunk_frames=1))
    pipeline = load(imported(tiny, student, tmp_path, rules=rules, context_policy="last_frame"), "cpu")
    session, again = pipeline.session("a red fox"), pipeline.session("a red fox")
    first, second = shot(session, "runs"), shot(session, "in the snow")
    assert len(first) == len(second) == 1 + 2 * 12 == pipeline.geometry.shot_num_frames(3)
    assert pipeline.max_chunks == 7
    assert np.array_equal(shot(again, "runs"), first)
    assert np.array_equal(shot(again, "in the snow", 2), second[:13])


def test_a_student_that_begins_with_more_frames_cannot_continue_one(tiny: TinyModel, tmp_path: Path) -> None:
    path = imported(tiny, STUDENTS["longlive"], tmp_path, context_policy="last_frame")
    with pytest.raises(ValueError, match=r"longlive begins with 3 latent frames.*must be 'none'"):
        load(path, "cpu")


def test_a_policy_or_a_length_that_a_student_cannot_serve_is_refused_in_one_line(
    tiny: TinyModel, tmp_path: Path
) -> None:
    with pytest.raises(
        ValueError, match="has no memory across shots; its context policy is none or last_frame"
    ):
        framewise(tiny, tmp_path / "a", context_policy="published")
    session = framewise(tiny, tmp_path / "b").session("a red fox")
    shot(session, "runs", 2)
    with pytest.raises(ValueError, match="22 chunks; this model's shots have at most 21"):
        session.shot("runs", num_chunks=22)
    assert len(session.shots) == 1
    rolling = load(imported(tiny, STUDENTS["rolling-forcing"], tmp_path / "c"), "cpu").session("a red fox")
    with pytest.raises(
        ValueError, match="8 steps; this model denoises as many chunks together, and at most 7"
    ):
        rolling.shot("runs", steps=8)


def test_another_number_of_steps_is_evenly_spaced_and_the_trained_one_is_not(
    tiny: TinyModel, tmp_path: Path
) -> None:
    pipeline = load(imported(tiny, STUDENTS["causvid-3step"], tmp_path), "cpu")
    trained, other = pipeline.sigmas(3), pipeline.sigmas(2)
    assert not isinstance(trained, Tensor) and not isinstance(other, Tensor)
    assert trained.told.tolist() == [1.0, 0.757, 0.522]
    torch.testing.assert_close(trained.used, torch.tensor([1.0, 0.75675672, 0.52173913]).double())
    torch.testing.assert_close(other.used, torch.tensor([1.0, 8 / 9]).double(), atol=1e-7, rtol=0)


Prepare = Callable[[TinyModel, Path], None]


def _as_another(tiny: TinyModel, directory: Path) -> None:
    write_published(tiny, STUDENTS["self-forcing"], directory)
    (directory / "student/checkpoints/self_forcing_dmd.pt").rename(directory / "rewardforcing.pt")


def _without_lora(tiny: TinyModel, directory: Path) -> None:
    write_published(tiny, STUDENTS["longlive"], directory)
    (directory / "student/models/lora.pt").unlink()


def _of_other_sizes(tiny: TinyModel, directory: Path) -> None:
    tiny.write_original(directory)
    larger = replace(tiny.dit_config, dim=48)
    torch.save({"generator": random_tensors(dit_shapes(larger), 0)}, directory / "base.pt")
    torch.save({}, directory / "lora.pt")


def _twice(tiny: TinyModel, directory: Path) -> None:
    write_published(tiny, STUDENTS["self-forcing"], directory)
    (directory / "self_forcing_sid.pt").touch()
    (directory / "student/checkpoints/self_forcing_dmd.pt").rename(directory / "self_forcing_dmd.pt")


@pytest.mark.parametrize(
    ("name", "prepare", "message"),
    [
        (
            "self-forcing",
            TinyModel.write_original,
            r"no checkpoint; put checkpoints/self_forcing_dmd\.pt of gdhe",
        ),
        (
            "reward-forcing",
            _as_another,
            r"holds generator_ema\.model, .* in the bare weights; .* another model",
        ),
        (
            "longlive",
            _without_lora,
            r"its LoRA is missing; put models/lora\.pt of Efficient-Large-Model/LongL",
        ),
        ("memflow", _of_other_sizes, "it belongs to a transformer of other sizes"),
        ("self-forcing", _twice, r"2 files could be its own .*; name it with --checkpoint"),
        ("krea-14b", TinyModel.write_original, "krea-14b makes no film here: only its sizes and steps"),
    ],
)
def test_a_file_that_is_missing_or_of_another_student_is_told_in_one_line(
    tiny: TinyModel, tmp_path: Path, name: str, prepare: Prepare, message: str
) -> None:
    prepare(tiny, tmp_path / "wan")
    with pytest.raises((CheckpointError, ValueError), match=message) as told:
        import_weights(tiny.source(tmp_path / "wan"), as_=name, out=tmp_path / "bundle")
    assert "\n" not in str(told.value) and not (tmp_path / "bundle").exists()


def test_a_lora_that_is_named_is_the_students_own(tiny: TinyModel, tmp_path: Path) -> None:
    from shotstream.weights.lora import LoraSource

    expected = write_published(tiny, STUDENTS["longlive"], tmp_path / "wan")
    lora = tmp_path / "wan/student/models/lora.pt"
    for moved in (lora, tmp_path / "elsewhere.pt"):
        if moved != lora:
            lora.rename(moved)
        source = tiny.source(tmp_path / "wan", loras=(LoraSource(path=moved),))
        bundle = read_bundle(import_weights(source, as_="longlive", out=tmp_path / moved.stem))
        assert torch.equal(bundle.tensors["dit"][f"{_Q}.weight"], expected[f"{_Q}.weight"])
        assert len(bundle.provenance["loras"]) == 1


def test_the_14b_geometry_is_made_without_memory() -> None:
    config = wan_14b()
    with init_empty_weights():
        dit = DiT(config)
    assert {name: tuple(t.shape) for name, t in dit.state_dict().items()} == dit_shapes(config)
    # As counted from the published sizes: 14.3 thousand million.
    assert sum(p.numel() for p in dit.parameters()) == 14_288_491_584
    assert config.head_dim == 128


def test_the_rules_of_every_student_fit_its_chunks_and_its_default_length() -> None:
    for student in FILM_STUDENTS:
        assert student.rules is not None
        student.rules.check_chunk(student.chunk_frames)
        geometry = VideoGeometry(
            chunk_latent_frames=student.chunk_frames,
            first_chunk_latent_frames=student.rules.first_chunk_frames,
        )
        student.rules.check_length(student.num_chunks, geometry)
        assert geometry.shot_num_frames(student.num_chunks) == 81
