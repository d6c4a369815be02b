"""Lists for the start page: stored stories, bundled stories, and the vocabulary for captions."""

import base64
import io
from collections.abc import Iterable
from functools import cache

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from shotstream.story import bundled_stories, read_story
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.studio.schemas.rest import BundledStory, Suggestions, WordCard
from shotstream.studio.schemas.state import Place, StorySummary
from shotstream.studio.story_store import StoryStore
from shotstream.theatre.captions import (
    ACTION_PHRASES,
    CAMERA_PHRASES,
    FRAMING_PHRASES,
    PLACE_PHRASES,
    SPOT_PHRASES,
    TIME_PHRASES,
)
from shotstream.theatre.cast import COLOURS, SPECIES, TRANSPARENT, Actor, Pose, sprite
from shotstream.theatre.palette import to_rgb
from shotstream.theatre.sets import stage
from shotstream.theatre.world import HELD_OUT

_EXAMPLES = (
    "Wide shot: the purple fox walks to the right in the forest at sunset.",
    "Close-up: the purple fox waits, in the woods at dusk.",
    "Medium shot: the yellow owl waves hello in the forest at sunset.",
    "Wide shot: the purple fox dances and the yellow owl jumps in the forest at sunset.",
)


def list_stories(store: StoryStore) -> list[StorySummary]:
    """Returns a summary of each story, the most recently changed first."""
    found: list[StorySummary] = []
    for story in store.load_stories():
        branch = next(branch for branch in story.branches if branch.branch_id == story.branch_id)
        shot_list = store.get_step(branch.head_id).shot_list
        takes = {take.take_id: take for take in story.takes}
        film = [takes[take_id] for take_id in shot_list.take_ids()]
        found.append(
            StorySummary(
                story_id=story.story_id,
                title=shot_list.title,
                created_at=story.created_at,
                updated_at=story.updated_at,
                num_shots=len(shot_list.shots),
                num_frames=sum(take.num_frames for take in film),
                num_bytes=sum(take.num_bytes for take in story.takes),
                cover=Place(take_id=film[0].take_id, frame_index=film[0].num_frames // 2) if film else None,
            )
        )
    return found


def list_bundled_stories() -> list[BundledStory]:
    """Returns the stories that come with the program."""
    stories = [(name, read_story(path)) for name, path in bundled_stories().items()]
    return [
        BundledStory(
            name=name,
            title=story.title,
            global_caption=story.global_caption,
            captions=tuple(shot.caption for shot in story.shots),
        )
        for name, story in stories
    ]


def caption_suggestions(pipeline: StreamingPipeline) -> Suggestions:
    """Returns the vocabulary, each meaning by its first phrase; empty for a model with an open vocabulary."""
    if pipeline.family != "theatre":
        return Suggestions(
            species=(), colours=(), places=(), times=(), framings=(), actions=(), spots=(), cameras=(),
            held_out=(), examples=(), cast=(), sets=(), skies=(),
        )  # fmt: skip
    return Suggestions(
        species=SPECIES,
        colours=COLOURS,
        places=_first_phrases(PLACE_PHRASES.values()),
        times=_first_phrases(TIME_PHRASES.values()),
        framings=_first_phrases(FRAMING_PHRASES.values()),
        actions=_first_phrases(ACTION_PHRASES.values()),
        spots=_first_phrases(SPOT_PHRASES.values()),
        cameras=_first_phrases(CAMERA_PHRASES.values()),
        held_out=tuple(sorted(HELD_OUT)),
        examples=_EXAMPLES,
        cast=_cast(),
        sets=tuple(
            WordCard(words=phrases[0], picture=_data_url(to_rgb(stage(place, "day", 0))))
            for place, phrases in PLACE_PHRASES.items()
        ),
        skies=tuple(
            WordCard(words=phrases[0], picture=_data_url(to_rgb(stage("meadow", time, 0))))
            for time, phrases in TIME_PHRASES.items()
        ),
    )


@cache
def _cast() -> tuple[WordCard, ...]:
    """Returns all characters of the training data. Captions never name the scarf's colour: any will do."""
    cards: list[WordCard] = []
    for species in SPECIES:
        for colour in COLOURS:
            if (species, colour) in HELD_OUT:
                continue
            drawn = sprite(Actor(species, colour, "scarf_orange"), Pose())
            seen = np.where(drawn == TRANSPARENT, 0, 255).astype(np.uint8)
            shown = to_rgb(np.where(drawn == TRANSPARENT, 0, drawn))
            cards.append(
                WordCard(
                    words=f"{colour} {species}",
                    picture=_data_url(np.concatenate([shown, seen[..., None]], -1)),
                )
            )
    return tuple(cards)


def _data_url(pixels: UInt8[np.ndarray, "h w channels"]) -> str:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, format="png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"


def _first_phrases(meanings: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(next(filter(None, phrases)) for phrases in meanings if any(phrases))
