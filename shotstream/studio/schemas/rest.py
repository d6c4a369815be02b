"""Schemas of the bodies of REST requests and answers."""

from typing import Annotated

from pydantic import Field

from shotstream.story import MAX_CHUNKS_PER_SHOT, MAX_SHOTS
from shotstream.studio.schemas.base import (
    Caption,
    ErrorCode,
    Message,
    PictureId,
    PolicyName,
    ReferenceId,
    Seed,
    Title,
)
from shotstream.studio.schemas.state import LimitsState, ModelState, NewShot, StoryState

ShotTexts = Caption | Annotated[tuple[Caption, ...], Field(min_length=1, max_length=MAX_SHOTS, strict=False)]
"""The caption of a shot, or all its captions in order if it was steered."""


class CreateStory(Message):
    """A story to create: a bundled story by its name, or a new story, with or without shots."""

    bundled: Annotated[str, Field(max_length=100)] | None = None
    """Name of a bundled story. Title, global caption and shots then come from it and must not be given."""
    title: Title = "Untitled"
    global_caption: Caption | None = None
    """Global caption of the story; required unless `bundled` is given."""
    shots: tuple[NewShot, ...] = Field(default=(), max_length=MAX_SHOTS, strict=False)
    seed: Seed | None = None
    """Seed of the story; null: 7, or the bundled story's own."""
    context_policy: PolicyName | None = None
    """One of the model's `context_policies`; null: the model's own."""
    autoplay: bool = True


class ImportedStory(StoryState):
    """A story that was created from a story file."""

    warnings: tuple[str, ...]
    """Parts of the file that were ignored, one line of text each, for the user."""


class Picture(Message):
    """A picture that was uploaded, for a reference of the story."""

    picture_id: PictureId
    image: str
    """The picture as the model sees it, as a data: URL: cropped around its centre, at the model's size."""
    outside: str | None
    """A sentence that the picture is not one of the model's world; null: it may be."""


class BundledStory(Message):
    """A story that comes with the program."""

    name: str
    title: str
    global_caption: str
    captions: tuple[str, ...]


class WordCard(Message):
    """A phrase for captions, with a picture of its meaning."""

    words: str
    picture: str
    """PNG as a data: URL, at the model's own resolution."""


class Suggestions(Message):
    """The vocabulary of the loaded model; empty lists for a model without a fixed vocabulary."""

    species: tuple[str, ...]
    colours: tuple[str, ...]
    places: tuple[str, ...]
    times: tuple[str, ...]
    framings: tuple[str, ...]
    actions: tuple[str, ...]
    spots: tuple[str, ...]
    cameras: tuple[str, ...]
    held_out: tuple[tuple[str, str], ...]
    """Pairs (species, colour) that were never shown in training."""
    examples: tuple[str, ...]
    """Example captions of shots."""
    cast: tuple[WordCard, ...]
    """Every character of the training data, such as "purple fox"."""
    sets: tuple[WordCard, ...]
    """Every place, by day."""
    skies: tuple[WordCard, ...]
    """Every time of day."""


class CitedReference(Message):
    """A reference that captions to check may cite."""

    reference_id: ReferenceId
    caption: Caption
    """What stands in captions in the place of `@id`."""


class CaptionCheck(Message):
    """A caption to check."""

    global_caption: Caption
    caption: Caption
    running: tuple[Caption, ...] = Field(default=(), max_length=MAX_CHUNKS_PER_SHOT, strict=False)
    """Captions so far of the running shot that it steers, its own first; empty: it is of a new shot."""
    earlier: tuple[ShotTexts, ...] = Field(default=(), max_length=MAX_SHOTS, strict=False)
    """Captions of the shots before it, in order: they may have named who is in it. Of a shot that was
    steered, a list of all its captions.
    """
    references: tuple[CitedReference, ...] = Field(default=(), max_length=MAX_SHOTS, strict=False)
    """The references of the story."""
    seed: Seed | None = None
    """Seed of the film's first shot, which chooses what the captions leave open; null: not chosen yet."""


class CaptionAdvice(Message):
    """The result of a caption check."""

    unknown_words: tuple[str, ...]
    """Words that are not in the model's vocabulary, or for things that its world does not have."""
    understood: str | None
    """What the model understands of the caption, as a sentence; null if it cannot say."""
    warnings: tuple[str, ...]
    """What is ignored, chosen or changed, one line of text each."""


class ModelAnswer(Message):
    """The loaded model and the server's limits."""

    model: ModelState
    limits: LimitsState


class Problem(Message):
    """The body of every REST answer with status 400 or above."""

    code: ErrorCode
    message: str
