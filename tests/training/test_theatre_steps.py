"""What codec, decoder and reader learn in a step, written out: which clips, pixels, noise and captions."""

import hashlib
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from shotstream.data.rendered_clips import ActorClips, ActorClipsConfig
from shotstream.theatre.render import FRAMINGS
from shotstream.vae.patch_codec import PatchCodec
from tests.training.test_stage_steps import codec_stage, decoder_stage

SIDE, STRIDE = 8, 4  # a latent stands for 4 frames of 8 x 8 pixels


def seed_of(*keys: object) -> int:
    digest = hashlib.blake2b("/".join(map(str, keys)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") // 2


def noised(latents: Tensor, seed: int, name: str, step: int, most: float) -> Tensor:
    """Each sample's latents with noise of its own, by a scale of its own in [0, most]."""
    found = []
    for sample, one in enumerate(latents):
        scale = float(np.random.default_rng(seed_of(seed, f"{name}/scale", step, sample)).random()) * most
        generator = torch.Generator().manual_seed(seed_of(seed, f"{name}/noise", step, sample))
        found.append(one + scale * torch.randn(one.shape, generator=generator))
    return torch.stack(found)


def test_a_codecs_loss_is_that_of_some_pixels_of_every_cell_of_noised_latents() -> None:
    stage, codec = codec_stage()
    assert isinstance(codec, PatchCodec)
    codec.eval()
    step, config, seed = 3, stage.recipe.stage, stage.recipe.train.seed
    indices, pixels = stage.source.batch(step, range(2))
    assert indices.shape[1] == 1 + 2 * STRIDE and pixels.min() >= -1 and pixels.max() <= 1
    with torch.no_grad():
        loss, share = stage._loss(step, range(2))
        noisy = noised(codec.encode(pixels), seed, "codec", step, config.max_noise)
        generator = torch.Generator().manual_seed(seed_of(seed, "codec/pixels", step))
        chosen = torch.randperm(STRIDE * SIDE * SIDE, generator=generator)[: config.pixels_per_cell]
        logits = codec.decode_cell_logits(noisy, codec.before(noisy), chosen)
        said = logits.log_softmax(-1)
    losses: list[Tensor] = []
    right: list[Tensor] = []
    for frame, (place, pixel) in product(range(3), enumerate(chosen.tolist())):
        t, i, j = pixel // SIDE**2, pixel % SIDE**2 // SIDE, pixel % SIDE
        at = 0 if frame == 0 else 1 + STRIDE * (frame - 1) + t  # the first frame stands alone
        targets = indices[:, at, i::SIDE, j::SIDE].long()
        losses.append(-said[:, frame, :, :, place].take_along_dim(targets[..., None], dim=-1))
        right.append(said[:, frame, :, :, place].argmax(-1) == targets)
    assert said.shape[1] == 3
    torch.testing.assert_close(loss, torch.stack(losses).mean())
    torch.testing.assert_close(share, torch.stack(right).float().mean())
    (alone, _) = stage.source.batch(step, range(1, 2))
    assert torch.equal(alone, indices[1:]), "a clip is the one of its place"
    assert not torch.equal(indices[0], indices[1])


def test_a_codecs_preview_scores_the_average_on_clips_of_its_own_and_draws_them(tmp_path: Path) -> None:
    stage, _ = codec_stage()
    scores = stage.preview(7, tmp_path)
    averaged = stage.averaged()
    indices, pixels = stage.source.batch(2**31 - 1, range(stage.batch_size))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        latents = averaged.encode(pixels)
        noise = 0.4 * torch.randn(latents.shape, generator=generator)
        for name, given in (("right_clean", latents), ("right_noisy", latents + noise)):
            shown = (averaged.decode(given) + 1) * 127.5
            same = (shown.round() == ((pixels + 1) * 127.5).round()).all(dim=1)
            assert scores[name] == pytest.approx(same.float().mean().item(), abs=1e-6)
    assert scores.keys() == {"right_clean", "right_noisy"}
    height, width = indices.shape[2:]
    with Image.open(tmp_path / "preview_0000007.png") as picture:
        # frames 0, 4 and 8 of truth, of both decodings, side by side; a row for each clip; at twice the size
        assert picture.size == (2 * 9 * width, 2 * stage.batch_size * height)
        found = np.asarray(picture)[::2, ::2]
    truth = ((pixels + 1) * 127.5).round().byte().permute(0, 2, 3, 4, 1).numpy()
    for clip, place in product(range(stage.batch_size), range(3)):
        part = found[clip * height : (clip + 1) * height, place * width : (place + 1) * width]
        assert np.array_equal(part, truth[clip, STRIDE * place])


def test_a_decoders_loss_looks_at_cells_with_actors_first_and_weighs_their_pixels() -> None:
    stage, codec = decoder_stage()
    config, step, seed = stage.recipe.stage, 2, stage.recipe.train.seed
    pictures, figures = stage.source.batch(step, range(2))
    rows, columns = pictures.shape[2] // SIDE, pictures.shape[3] // SIDE
    num_cells = stage.recipe.data.num_latent_frames * rows * columns
    asked: dict[str, Tensor] = {}

    def surroundings(noisy: Tensor, before: Tensor) -> Tensor:
        del before
        asked["noisy"] = noisy
        numbers = torch.arange(num_cells, dtype=torch.float32).reshape(1, -1, rows, columns, 1)
        return numbers.expand(2, -1, -1, -1, -1)

    def finished_logits(around: Tensor, pixels: Tensor) -> Tensor:
        asked["cells"], asked["pixels"] = around[..., 0].long(), pixels
        shape = (*around.shape[:2], len(pixels), len(codec.colours.weight))
        asked["logits"] = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        return asked["logits"]

    codec.surroundings, codec.finished_logits = surroundings, finished_logits  # type: ignore[assignment]
    loss, share = stage._loss(step)
    with torch.no_grad():
        wanted = noised(stage._latents(pictures), seed, "decoder", step, config.max_noise)
    torch.testing.assert_close(asked["noisy"], wanted)
    assert len(asked["pixels"].unique()) == len(asked["pixels"]) == config.pixels_per_cell
    padded = torch.nn.functional.pad(figures.float(), (1, 1, 1, 1)).bool()
    near = torch.zeros_like(figures)
    for down, across in np.ndindex(3, 3):  # a pixel beside one of an actor's counts too
        near |= padded[:, :, down : down + figures.shape[2], across : across + figures.shape[3]]
    per_cell = codec.config.num_pictures
    total = weights = hits = counted = 0.0
    for sample in range(2):
        chosen = asked["cells"][sample].tolist()
        assert len(set(chosen)) == len(chosen) == min(config.cells_per_clip, num_cells)
        shown: list[bool] = []
        for number in range(num_cells):
            f, row, column = number // (rows * columns), number // columns % rows, number % columns
            area = near[sample, f * per_cell : (f + 1) * per_cell, SIDE * row :, SIDE * column :]
            shown.append(bool(area[:, :SIDE, :SIDE].any()))
        with_actor = sum(shown[number] for number in chosen)
        assert with_actor == min(sum(shown), len(chosen)), "cells with an actor come first"
        for place, number in enumerate(chosen):
            f, row, column = number // (rows * columns), number // columns % rows, number % columns
            for index, pixel in enumerate(asked["pixels"].tolist()):
                t, i, j = pixel // SIDE**2, pixel % SIDE**2 // SIDE, pixel % SIDE
                where = (sample, f * per_cell + t, SIDE * row + i, SIDE * column + j)
                weight = config.figure_weight if near[where] else 1.0
                said = asked["logits"][sample, place, index]
                total -= weight * float(said.log_softmax(-1)[int(pictures[where])])
                weights += weight
                hits += float(near[where]) * (int(said.argmax()) == int(pictures[where]))
                counted += float(near[where])
    assert float(loss) == pytest.approx(total / weights, rel=1e-4)
    assert share == pytest.approx(hits / max(counted, 1), abs=1e-6)


@pytest.mark.parametrize(
    ("framing_weights", "still_weight"),
    [((1.0, 0.0, 0.0), 1.0), ((0.0, 1.0, 0.0), 0.0), ((0.0, 0.0, 1.0), 0.5), ((0.5, 1.0, 0.25), 0.0)],
)
def test_a_decoder_sees_the_framings_and_the_motion_that_its_recipe_asks_for(
    framing_weights: tuple[float, ...], still_weight: float
) -> None:
    config = ActorClipsConfig(framing_weights=framing_weights, still_weight=still_weight)
    source = ActorClips(config, 2, seed=0)
    weights = []
    for step in range(12):
        shot, _, _ = source.clip(step, 0, held_out=False)
        moves = any(one.action in ("walks", "jumps", "dances") for one in shot.performances)
        weights.append(framing_weights[FRAMINGS.index(shot.framing)] * (1.0 if moves else still_weight))
        assert source._weight(shot) == weights[-1] > 0  # pyright: ignore[reportPrivateUsage]
