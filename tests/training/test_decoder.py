"""A decoder's finish: it begins by changing nothing, latents stay, and it learns what actors look like."""

from pathlib import Path
from typing import Any

import pytest
import torch

from shotstream.data.rendered_clips import ActorClips, ActorClipsConfig
from shotstream.theatre.palette import NAMES, RGB
from shotstream.training.checkpoint import checkpoints, load_checkpoint, write_portable
from shotstream.training.inputs import input_codec
from shotstream.training.parallelize import ParallelConfig
from shotstream.training.recipe import AnyRecipe
from shotstream.training.recipes import recipe
from shotstream.training.run import run_recipe
from shotstream.training.stages.decoder import DecoderStage, finished
from shotstream.vae.patch_codec import PatchCodec, PatchCodecConfig
from tests.training.test_run import codec, same, weights

_PLAIN = PatchCodecConfig(num_colours=len(NAMES), dim=16, num_decoder_layers=1)
_SMALL = [
    "train.tensorboard=false",
    "data.batch_size=2",
    "stage.cells_per_clip=6",
    "stage.pixels_per_cell=4",
    "data.num_latent_frames=2",
    "model.dim=16",
    "model.num_decoder_layers=1",
    "model.num_finish_layers=1",
    "model.finish_dim=16",
]


_LEARNS = [
    "optim.decay_steps=30",
    "optim.learning_rate=5e-3",
    "model.finish_dim=8",
    "stage.cells_per_clip=64",
    "stage.pixels_per_cell=48",
]


def decoder(num_steps: int, *more: str) -> AnyRecipe:
    loop = [f"train.num_steps={num_steps}", "train.preview_every=1000"]
    return recipe("theatre_decoder", [*_SMALL, *loop, *more])


def _config(num_pictures: int = 4) -> PatchCodecConfig:
    return PatchCodecConfig(
        num_colours=len(NAMES), dim=16, num_decoder_layers=1, num_past=2, num_finish_layers=1, finish_dim=8,
        num_pictures=num_pictures,
    )  # fmt: skip


def _plain() -> PatchCodec:
    torch.manual_seed(0)
    return PatchCodec(_PLAIN, torch.from_numpy(RGB)).eval()


def built(made: AnyRecipe, parallel: ParallelConfig | None = None) -> DecoderStage:
    source = ActorClips(made.data, made.model.num_pictures, seed=made.train.seed)
    return DecoderStage(made, source, _plain(), parallel=parallel)


def test_a_run_whose_input_is_in_a_folder_below_is_resumed(tmp_path: Path) -> None:
    """The input's configuration was looked for under the last part of its name."""
    run_recipe(codec(1), tmp_path / "below")
    for last in (1, 2):
        made = decoder(3, "inputs.codec=below/theatre_codec", f"train.stop_at={last}")
        assert run_recipe(made, tmp_path) == last


def test_a_finish_begins_by_changing_nothing() -> None:
    plain, latents = _plain(), torch.randn(2, 16, 3, 2, 3, generator=torch.Generator().manual_seed(1))
    codec = finished(plain, _config())
    torch.testing.assert_close(
        codec.decode_logits(latents, codec.before(latents)),
        plain.decode_logits(latents, plain.before(latents)),
    )


def test_a_held_picture_begins_as_the_mean_of_its_frames() -> None:
    plain, latents = _plain(), torch.randn(2, 16, 3, 2, 3, generator=torch.Generator().manual_seed(1))
    codec = finished(plain, _config(num_pictures=2))
    torch.testing.assert_close(
        codec.decode_logits(latents, codec.before(latents)),
        plain.decode_logits(latents, plain.before(latents)).unflatten(2, (2, 2)).mean(dim=3),
    )


def test_other_codecs_are_not_finished() -> None:
    with pytest.raises(ValueError, match="the codec to finish is of"):
        finished(finished(_plain(), _config()), _config())
    wider = PatchCodec(PatchCodecConfig(num_colours=len(NAMES), dim=24, num_decoder_layers=1))
    with pytest.raises(ValueError, match="the codec to finish is of"):
        finished(wider, _config())


def test_latents_stay_as_they_are_and_the_finished_codec_is_what_later_runs_use(tmp_path: Path) -> None:
    run_recipe(codec(1), tmp_path)
    plain = input_codec(tmp_path)
    run_recipe(decoder(3), tmp_path)
    after = input_codec(tmp_path)
    assert after.config.num_finish_layers == 1 and plain.config.num_finish_layers == 0
    pixels = torch.rand(1, 3, 9, 16, 16, generator=torch.Generator().manual_seed(2)) * 2 - 1
    assert torch.equal(plain.encode(pixels), after.encode(pixels))
    old, new = plain.state_dict(), after.state_dict()
    changed = {name for name in old if not name.startswith("head.") and not torch.equal(old[name], new[name])}
    assert changed == {"colours.weight", "colours.bias"}
    assert new["head.weight"][:, :16].any(), "the finish has begun to matter"


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    for part in ("parts", "whole"):
        run_recipe(codec(1), tmp_path / part)
    run_recipe(decoder(4, "train.stop_at=2"), tmp_path / "parts")
    run_recipe(decoder(4), tmp_path / "parts")
    run_recipe(decoder(4), tmp_path / "whole")
    name = "theatre_decoder"
    assert same(weights(tmp_path / "parts", name), weights(tmp_path / "whole", name))
    write_portable(checkpoints(tmp_path / "whole" / name)[-1], tmp_path / "packed.pt")
    assert load_checkpoint(tmp_path / "packed.pt")[0] == 4


@pytest.mark.slow
def test_it_learns_and_previews_by_framing(tmp_path: Path) -> None:
    stage = built(decoder(60, *_LEARNS))
    losses = [stage.step(step)["loss"] for step in range(60)]
    assert sum(losses[-10:]) < 0.95 * sum(losses[:10])
    scores = stage.preview(60, tmp_path)
    assert scores.keys() == {"right_wide", "right_medium", "right_close-up"}
    assert all(0 < score < 1 for score in scores.values())


def test_wide_shots_have_the_smallest_actors_and_close_ups_the_largest() -> None:
    def shares(**changes: Any) -> float:
        source = ActorClips(ActorClipsConfig(num_latent_frames=2, **changes), 2, seed=0)
        return source.batch(0, range(40)).figures.float().mean().item()

    often = shares(framing_weights=(1.0, 0.0, 0.0))
    assert often < shares() < shares(framing_weights=(0.0, 0.0, 1.0))


@pytest.mark.parametrize(
    "wrong",
    [
        "data.framing_weights=[1.0, 1.0]",
        "data.framing_weights=[0.0, 0.0, 0.0]",
        "data.still_weight=2.0",
        "model.num_finish_layers=0",
        "stage.cells_per_clip=0",
        "train.matmul_dtype=bfloat16",
    ],
)
def test_recipes_that_make_no_sense_are_refused(wrong: str) -> None:
    setting = wrong.partition("=")[0].rpartition(".")[2]
    with pytest.raises(ValueError, match=setting):
        decoder(1, wrong)


def test_ways_of_computing_that_it_does_not_have_are_refused() -> None:
    with pytest.raises(ValueError, match="the finish is small"):
        built(decoder(1), ParallelConfig(compile=True))
