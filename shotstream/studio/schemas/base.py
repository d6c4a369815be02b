"""The base model and the field types of all schemas."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from shotstream.story import (
    MAX_CAPTION_CHARS,
    MAX_CHUNKS_PER_SHOT,
    MAX_SEED,
    MAX_SHOTS,
    MAX_TITLE_CHARS,
    NO_TEXT,
)

PROTOCOL_VERSION = 1
_SEED_DIGITS = 19


def _check_text(text: str) -> str:
    if not text.strip():
        raise ValueError("the text is empty; write what the shot shows")
    if bad := NO_TEXT.search(text):
        raise ValueError(f"it holds the character U+{ord(bad[0]):04X}; remove it")
    return text


def _check_seed(text: str) -> str:
    if not (text.isascii() and text.isdigit() and len(text) <= _SEED_DIGITS and int(text) <= MAX_SEED):
        raise ValueError(f"a seed is a whole number from 0 to {MAX_SEED}")
    return text


Id = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
"""An id that the server made: 16 hexadecimal digits."""
ReplyId = Annotated[str, Field(min_length=1, max_length=64)]
"""An id that the client chose: any text of 1 to 64 characters."""
Caption = Annotated[str, Field(max_length=MAX_CAPTION_CHARS), AfterValidator(_check_text)]
"""A caption. Line breaks are kept; other control characters are refused."""
Title = Annotated[str, Field(max_length=MAX_TITLE_CHARS), AfterValidator(_check_text)]
PolicyName = Annotated[str, Field(max_length=100)]
"""Name of a context policy."""
NumChunks = Annotated[int, Field(ge=1, le=MAX_CHUNKS_PER_SHOT)]
LaterChunk = Annotated[int, Field(ge=1, lt=MAX_CHUNKS_PER_SHOT)]
"""Index of a chunk in its shot, after the first one."""
PictureId = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""Id of a picture that was uploaded: 64 hexadecimal digits."""
ReferenceId = Annotated[str, Field(min_length=1, max_length=80), AfterValidator(_check_text)]
"""A word of up to 40 letters, digits, - and _, by which captions cite a reference as `@word`."""
ShotNumbers = Literal["all", "cited"] | Annotated[tuple[int, ...], Field(max_length=MAX_SHOTS, strict=False)]
"""The shots that see a reference: all; those that cite it; or those that cite it and those of these numbers,
from 1.
"""
Seed = Annotated[str, AfterValidator(_check_seed)]
"""A whole number from 0 to 2^63 - 1, as decimal text: JavaScript's numbers are exact only up to 2^53."""
Index = Annotated[int, Field(ge=0, le=MAX_SHOTS)]
FrameIndex = Annotated[int, Field(ge=0, le=10**9)]

ErrorCode = Literal[
    "malformed",
    "unknown_event",
    "invalid",
    "too_large",
    "too_fast",
    "not_found",
    "refused",
    "limit",
    "quota",
    "storage",
    "busy",
    "failed",
]
"""The code of an error, in WebSocket messages and in bodies of REST answers."""


class Message(BaseModel):
    """Base class of all schemas: strict types, no unknown fields, immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)
