"""Sources of films to score: a model, a codec, the world's own renderings, or degraded renderings.

A source takes the index of a story and the story, and returns the frames of each shot. Ground truth, codec,
teacher and student differ in their source alone, so their scores can be compared.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageFilter

from shotstream.geometry import WAN_GEOMETRY
from shotstream.story import Reference
from shotstream.streaming.noise import shot_seed
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.theatre.cast import SCARVES
from shotstream.theatre.palette import RGB, to_rgb
from shotstream.theatre.reference_pictures import (
    actor_caption,
    actor_picture,
    place_caption,
    place_picture,
)
from shotstream.theatre.render import Shot, render
from shotstream.theatre.sets import NUM_LAYOUTS
from shotstream.theatre.world import TheatreStory, sample_returning_story, sample_story
from shotstream.vae.codec import Codec
from shotstream.vae.pixels import from_uint8, to_uint8
from shotstream.video.pictures import picture_to_uri

Take = UInt8[np.ndarray, "f h w 3"]
FilmSource = Callable[[int, TheatreStory], Sequence[np.ndarray]]
"""A function from the index of a story and the story to the frames of each shot, uint8 RGB `f h w 3`."""

_HELD_OUT_STREAM = 1_000_003
_REFERENCE_STREAM = 1_000_033
_CELL_PX = 8


def held_out_stories(
    num_stories: int, num_shots: int, seed: int, *, returns: bool = False
) -> list[TheatreStory]:
    """Returns stories with a held-out pair of species and colour; story i depends on `seed` and i.

    With `returns` they have five actors in five places, which leave and return.
    """
    sample = sample_returning_story if returns else sample_story
    return [
        sample(np.random.default_rng((seed, _HELD_OUT_STREAM, number)), num_shots, held_out=True)
        for number in range(num_stories)
    ]


def model_films(
    pipeline: StreamingPipeline,
    *,
    context: bool,
    num_chunks: int,
    seed: int,
    steps: int | None = None,
    references: bool = False,
    policy: str | None = None,
) -> FilmSource:
    """Returns the films of a model; without context each shot is the first one of its own session.

    With and without context a shot has the same seed, and so the same noise.

    Args:
        pipeline: A theatre model.
        context: Whether a shot sees earlier ones.
        num_chunks: Length of the shots in chunks.
        seed: Seed of the films.
        steps: Number of denoising steps; None takes the number that the model was trained for.
        references: Whether a film is given pictures of its cast and of its sets.
        policy: Name of the policy that chooses the context; None: the model's.
    """
    pipeline.check_policy(policy or pipeline.context_policy)

    def film(number: int, story: TheatreStory) -> list[np.ndarray]:
        begin = partial(
            pipeline.session,
            story.global_caption,
            seed=seed + number,
            references=story_references(story, seed + number) if references else (),
            policy=policy,
            quiet=True,
        )
        session = begin()
        takes: list[np.ndarray] = []
        for index, caption in enumerate(story.captions):
            if not context:
                session = begin()
            chunks = session.shot(
                caption, num_chunks=num_chunks, seed=shot_seed(seed + number, index), steps=steps
            )
            takes.append(np.concatenate([chunk.frames for chunk in chunks]))
        return takes

    return film


def story_references(story: TheatreStory, seed: int) -> list[Reference]:
    """Returns pictures as a person gives them: of each member of a story's cast and of each place."""
    rng = np.random.default_rng((seed, _REFERENCE_STREAM))
    references = [
        Reference(
            id=f"actor{number}",
            image=picture_to_uri(to_rgb(actor_picture(actor, rng))),
            caption=actor_caption(actor),
        )
        for number, actor in enumerate(story.cast)
    ]
    places = {shot.place: shot for shot in reversed(story.shots)}
    return references + [
        Reference(
            id=f"place{number}",
            image=picture_to_uri(to_rgb(place_picture(shot.place, shot.time, shot.layout))),
            caption=place_caption(shot.place, shot.time),
            role="place",
        )
        for number, shot in enumerate(places.values())
    ]


def true_films(num_chunks: int) -> FilmSource:
    """Returns the world's own films."""
    num_frames = WAN_GEOMETRY.shot_num_frames(num_chunks)
    return lambda _, story: [_rendered(shot, num_frames) for shot in story.shots]


def coded_films(codec: Codec, num_chunks: int) -> FilmSource:
    """Returns the world's films encoded and decoded: the best that a model with this codec can do."""
    true = true_films(num_chunks)

    def film(number: int, story: TheatreStory) -> list[np.ndarray]:
        return [_coded(codec, take) for take in true(number, story)]

    return film


def shuffled_films(num_chunks: int, seed: int) -> FilmSource:
    """Returns the world's film of another held-out story, which ignores the captions."""
    true = true_films(num_chunks)

    def film(number: int, story: TheatreStory) -> Sequence[np.ndarray]:
        rng = np.random.default_rng((seed, 1, number))
        return true(number, sample_story(rng, len(story.shots), held_out=True))

    return film


def forgetful_films(num_chunks: int, seed: int) -> FilmSource:
    """Returns the world's film with random scarves and layouts in each shot."""
    true = true_films(num_chunks)

    def film(number: int, story: TheatreStory) -> Sequence[np.ndarray]:
        rng = np.random.default_rng((seed, 2, number))
        shots = tuple(_with_new_details(shot, rng) for shot in story.shots)
        return true(number, replace(story, shots=shots))

    return film


def films_with_moved_cuts(num_chunks: int, num_late: int) -> FilmSource:
    """Returns the world's film with every cut `num_late` frames late."""
    num_frames = WAN_GEOMETRY.shot_num_frames(num_chunks)

    def film(_: int, story: TheatreStory) -> list[np.ndarray]:
        longer = [_rendered(shot, num_frames + num_late) for shot in story.shots]
        rest = [
            np.concatenate([before[num_frames:], after[: num_frames - num_late]])
            for before, after in itertools.pairwise(longer)
        ]
        return [longer[0][:num_frames], *rest]

    return film


def changed(source: FilmSource, change: Callable[[np.ndarray], np.ndarray]) -> FilmSource:
    """Returns films with a function applied to every take, for example one of those below."""
    return lambda number, story: [change(take) for take in source(number, story)]


def blurred(take: Take, radius_px: float) -> Take:
    """Returns frames with a Gaussian blur."""
    blur = ImageFilter.GaussianBlur(radius_px)
    return np.stack([np.asarray(Image.fromarray(frame).filter(blur)) for frame in take])


def mosaicked(take: Take, size_px: int) -> Take:
    """Returns frames averaged over blocks; the size of the frames must be a multiple of the block's."""
    f, h, w, c = take.shape
    blocks = take.reshape(f, h // size_px, size_px, w // size_px, size_px, c).mean(axis=(2, 4))
    return blocks.round().astype(np.uint8).repeat(size_px, axis=1).repeat(size_px, axis=2)


def speckled(take: Take, share: float, rng: np.random.Generator) -> Take:
    """Returns frames with a share of the pixels replaced by random colours of the palette."""
    noise = RGB[rng.integers(len(RGB), size=take.shape[:3])]
    return np.where((rng.random(take.shape[:3]) < share)[..., None], noise, take)


def flickered(take: Take, share: float, rng: np.random.Generator) -> Take:
    """Returns frames in which a share of the 8x8 cells shows another frame of the take."""
    f, h, w, _ = take.shape
    chosen = rng.random((f, h // _CELL_PX, w // _CELL_PX)) < share
    source = np.where(chosen, rng.integers(f, size=chosen.shape), np.arange(f)[:, None, None])
    grown = source.repeat(_CELL_PX, axis=1).repeat(_CELL_PX, axis=2)
    return np.take_along_axis(take, grown[..., None], axis=0)


def melted(take: Take, reach_px: int, rng: np.random.Generator) -> Take:
    """Returns frames whose rows are shifted by up to `reach_px`, at random for each group of four frames."""
    f, h, w, _ = take.shape
    moved = rng.integers(-reach_px, reach_px + 1, size=((f + 6) // 4, h))[(np.arange(f) + 3) // 4]
    columns = (np.arange(w) - moved[..., None]).clip(0, w - 1)
    return np.take_along_axis(take, columns[..., None], axis=2)


def _rendered(shot: Shot, num_frames: int) -> np.ndarray:
    return to_rgb(render(shot, num_frames))


def _with_new_details(shot: Shot, rng: np.random.Generator) -> Shot:
    performances = tuple(
        replace(one, actor=replace(one.actor, scarf=SCARVES[int(rng.integers(len(SCARVES)))]))
        for one in shot.performances
    )
    return replace(shot, layout=int(rng.integers(NUM_LAYOUTS)), performances=performances)


@torch.no_grad()
def _coded(codec: Codec, take: np.ndarray) -> np.ndarray:
    pixels = from_uint8(torch.from_numpy(take)).permute(3, 0, 1, 2)[None]
    decoded = codec.decode(codec.encode(pixels))[0].permute(1, 2, 3, 0)
    return to_uint8(decoded).numpy()
