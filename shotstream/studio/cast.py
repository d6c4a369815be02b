"""The cast of a story: its references, each with a picture that conditions the shots that it is for.

A picture is stored once, at the model's size, as a data URI under its hash, and never changes. The cast is a
part of the shot list, so undo and branches change it as they change shots. What a shot sees is the engine's
rule, `streaming.references.is_for`.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from shotstream.geometry import PixelSize
from shotstream.story import Reference, ReferenceRole
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.streaming.references import fitted_picture, is_for
from shotstream.video.pictures import picture_to_uri


@dataclass(frozen=True, kw_only=True, slots=True)
class CastEntry:
    """A reference of a story."""

    reference_id: str
    """Word by which captions cite it, as `@id`."""
    caption: str
    """What the picture shows."""
    role: ReferenceRole
    shots: Literal["all", "cited"] | tuple[int, ...]
    """The shots that see it, as in `story.Reference`."""
    picture_id: str | None
    """Id of the picture, see `picture_id_of`; None: the picture is missing."""
    file_name: str = ""
    """Name of the file of a missing picture."""

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "CastEntry":
        """Returns the entry from plain values, as `asdict` gives them."""
        values = dict(document)
        shots: Any = values.pop("shots")
        return cls(shots=tuple(shots) if isinstance(shots, list) else shots, **values)

    def as_reference(self, image: str | None = None) -> Reference:
        """Returns the reference; without its image it can be cited, and no shot can be made with it."""
        return Reference(
            id=self.reference_id,
            image=image or self.picture_id or self.file_name or "missing",
            caption=self.caption,
            role=self.role,
            shots=self.shots,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredPicture:
    """A picture of a story, without its pixels."""

    picture_id: str
    num_bytes: int
    outside: str | None
    """A sentence that the picture is not one of the model's world; None: it may be."""


def cast_from(documents: Iterable[Mapping[str, Any]]) -> tuple[CastEntry, ...]:
    """Returns the cast from plain values."""
    return tuple(map(CastEntry.from_document, documents))


def references_of(cast: Sequence[CastEntry]) -> tuple[Reference, ...]:
    """Returns the references of a cast, for captions that cite them."""
    return tuple(entry.as_reference() for entry in cast)


def seen_by(cast: Sequence[CastEntry], shot_index: int, *captions: str) -> tuple[CastEntry, ...]:
    """Returns the references that a shot sees.

    Args:
        cast: The cast.
        shot_index: Number of shots before it in the film.
        captions: The global caption, and all captions of the shot.
    """
    told = " ".join(captions)
    return tuple(entry for entry in cast if is_for(entry.as_reference(), shot_index, told))


def look(cast: Iterable[CastEntry]) -> list[tuple[str, str | None]]:
    """Returns what frames depend on of the references that a shot sees."""
    return [(entry.caption, entry.picture_id) for entry in cast]


def picture_id_of(image: str) -> str:
    """Returns the id of a picture: the SHA-256 of its data URI."""
    return hashlib.sha256(image.encode()).hexdigest()


def judged_picture(image: str, pipeline: StreamingPipeline) -> StoredPicture:
    """Returns the record of a picture, a data URI at the model's size, with what the model says of it."""
    encoded = pipeline.encode_reference(Reference(id="picture", image=image, caption="a picture"))
    told = pipeline.judge_reference(encoded.reference)
    return StoredPicture(
        picture_id=picture_id_of(image),
        num_bytes=len(image),
        outside=told and told.partition(": ")[2],  # without the reference's id, which begins it
    )


def cast_of_story(
    references: Sequence[Reference], size: PixelSize, *, reads_files: bool
) -> tuple[tuple[CastEntry, ...], dict[str, str]]:
    """Returns the cast of a story file, and the fitted pictures as data URIs, by their ids.

    A picture in a file is missing in the cast, unless files may be read.

    Raises:
        PictureError: A picture is unreadable or too large.
    """
    pictures: dict[str, str] = {}
    cast: list[CastEntry] = []
    for reference in references:
        values = {name: getattr(reference, name) for name in ("caption", "role", "shots")}
        entry = CastEntry(reference_id=reference.id, picture_id=None, **values)
        if reference.image.startswith("data:") or reads_files:
            image = picture_to_uri(fitted_picture(reference, size))
            entry = replace(entry, picture_id=picture_id_of(image))
            pictures[picture_id_of(image)] = image
        else:
            entry = replace(entry, file_name=Path(reference.image).name[:200])
        cast.append(entry)
    return tuple(cast), pictures
