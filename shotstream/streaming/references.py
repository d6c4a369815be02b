"""References: pictures of a person's own that condition the shots of a film.

A reference is a virtual shot before the film's first: its picture is a context frame of every shot that it is
for, it has the oldest RoPE phases, and its caption is the film's global caption with its own. A caption cites
it as `@id`, which is read as the reference's caption.

Source: context frames of any origin condition a ShotStream student (arXiv 2609.38839, which exchanges them).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from shotstream.geometry import PixelSize
from shotstream.story import Reference, ShotCaptions
from shotstream.streaming.shot_memory import ShotMemory
from shotstream.video.pictures import fit_picture, picture_from_uri, picture_to_uri, read_picture

_CITATION = re.compile(r"(?<![\w.@])@(\w+(?:-\w+)*)")
_DATA = "data:"


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedReference:
    """A reference with its picture at the model's size, and the latent of it."""

    reference: Reference
    """The reference; its image is the fitted picture itself, as a data URI."""
    latent: Float[Tensor, "z h w"] = field(repr=False)
    """Normalised latent of the picture, encoded alone; float32, on the CPU."""

    @property
    def memory(self) -> ShotMemory:
        """The memory of the virtual shot: one picture that every later shot has in its context."""
        return ShotMemory(
            caption=self.reference.caption,
            num_frames=1,
            candidate_frames=(),
            latents=torch.empty(0, *self.latent.shape),
            pinned=(self.latent,),
        )


def fitted_picture(reference: Reference, size: PixelSize) -> UInt8[ndarray, "h w 3"]:
    """Returns the picture of a reference at a size: cropped around its centre, never squeezed.

    Raises:
        PictureError: The picture is missing, unreadable or too large.
    """
    image = reference.image
    picture = picture_from_uri(image) if image.startswith(_DATA) else read_picture(image)
    return fit_picture(picture, size)


def with_picture(reference: Reference, picture: UInt8[ndarray, "h w 3"]) -> Reference:
    """Returns the reference with this picture, without loss, in the place of a file's name."""
    return replace(reference, image=picture_to_uri(picture))


def is_for(reference: Reference, shot_index: int, told: str) -> bool:
    """Returns whether a shot sees a reference, by the shot's index from 0 and by its captions."""
    if isinstance(reference.shots, tuple) and shot_index + 1 in reference.shots:
        return True
    return reference.shots == "all" or reference.id in cited(told)


def cited(caption: str) -> list[str]:
    """Returns the ids that a caption cites, in order."""
    return _CITATION.findall(caption)


def cite(caption: str, references: Sequence[Reference]) -> str:
    """Returns a caption with the caption of each reference in the place of its `@id`.

    Raises:
        ValueError: It cites an id that no reference has.
    """
    if "@" not in caption:
        return caption
    captions = {one.id: one.caption.strip().rstrip(".") for one in references}

    def caption_of(found: re.Match[str]) -> str:
        if found[1] not in captions:
            known = ", ".join(f"@{name}" for name in captions) or "none"
            raise ValueError(f"the caption cites @{found[1]}, which no reference has; there are: {known}")
        return captions[found[1]]

    return _CITATION.sub(caption_of, caption)


def cite_all(captions: ShotCaptions, references: Sequence[Reference]) -> ShotCaptions:
    """Returns the captions of a shot, each after `cite`."""
    if isinstance(captions, str):
        return cite(captions, references)
    return tuple(cite(caption, references) for caption in captions)
