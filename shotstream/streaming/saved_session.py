"""The complete state of a session, and the file that it is saved in.

It is a safetensors file: latents as tensors, everything else as JSON in its metadata, so that a session on
disk is complete or absent. Unknown versions and keys are refused. A checksum of all content is in the
metadata and is verified when the file is read; files of earlier versions have none.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from shotstream.files import write_atomically
from shotstream.story import Steer, reference_from_document
from shotstream.streaming.references import EncodedReference
from shotstream.streaming.shot_memory import ShotMemory

_FORMAT = "shotstream-session/1"


class SessionError(ValueError):
    """A file that is not a saved session, is damaged, or is of another model; the message is one line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Take(ShotMemory):
    """A take: one rendering of a shot, with its inputs and its memory."""

    seed: int
    """Seed of its noise."""
    num_steps: int
    """Number of denoising steps per chunk."""
    num_chunks: int
    """Length of the take in chunks."""
    then: tuple[Steer, ...] = ()
    """Captions that it got while it ran."""
    keep_s: float = 0.0
    """Seconds for encoding its memory, partly while the shot was generated; 0 in a loaded session."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pin:
    """A pinned picture: it is in the context of every later shot."""

    shot_index: int
    """Index of the shot that it counts as a frame of."""
    latent: Float[Tensor, "z h w"] = field(repr=False)
    """Latent of the picture, encoded alone; float32, on the CPU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SavedSession:
    """The complete state of a session."""

    model_id: str
    """Name of the model, for messages."""
    weights_sha256: str
    """SHA-256 of the weights that generated the takes and their latents."""
    context_policy: str
    """Name of the policy that chose the context frames."""
    global_caption: str
    """Caption of all shots."""
    seed: int
    """Seed of the session, for shots without their own."""
    takes: tuple[Take, ...]
    """The finished shots."""
    pins: tuple[Pin, ...]
    """The pinned pictures, in the order of pinning."""
    references: tuple[EncodedReference, ...] = ()
    """The references, in the order in which they were given."""


_TEXT, _SUM = "session", "sha256"
"""Keys in the file's metadata."""
_SESSION_KEYS = ("model_id", "weights_sha256", "context_policy", "global_caption", "seed")
_TAKE_KEYS = ("caption", "seed", "num_steps", "num_chunks", "num_frames", "candidate_frames")


def write_session(path: Path, session: SavedSession) -> None:
    """Writes a session to `path` atomically."""
    document = {
        "format": _FORMAT,
        **{key: getattr(session, key) for key in _SESSION_KEYS},
        "takes": [_take_document(take) for take in session.takes],
        "pins": [pin.shot_index for pin in session.pins],
    }
    if session.references:  # a session without them is the same file as in earlier versions
        document["references"] = [one.reference.to_document() for one in session.references]
    tensors = {f"take.{index}": take.latents.contiguous() for index, take in enumerate(session.takes)}
    tensors |= {f"pin.{index}": pin.latent.contiguous() for index, pin in enumerate(session.pins)}
    tensors |= {f"reference.{index}": one.latent.contiguous() for index, one in enumerate(session.references)}
    text = json.dumps(document, ensure_ascii=False)
    write_atomically(save(tensors, metadata={_TEXT: text, _SUM: _sum(text, tensors)}), path)


def read_session(path: Path) -> SavedSession:
    """Returns the session in a file.

    Raises:
        SessionError: There is none, or it is damaged.
    """
    if not path.is_file():
        raise SessionError(f"{path}: no such saved session")
    try:
        with safe_open(path, "pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            names = cast("list[str]", list(file.keys()))
            # Cloned, because the tensors would keep the mapped file open, which may be replaced or deleted.
            tensors: dict[str, Tensor] = {name: file.get_tensor(name).clone() for name in names}
    except (SafetensorError, OSError) as error:
        raise SessionError(f"{path}: not a saved session, or a damaged one") from error
    try:
        document = json.loads(metadata[_TEXT])
        is_known = document["format"] == _FORMAT
        if is_known and not _is_whole(metadata, tensors):
            raise SessionError(
                f"{path}: damaged: it is not what was written; take a copy of it, or start again"
            )
        session = _session_from(document, tensors) if is_known else None
    except SessionError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise SessionError(f"{path}: not a saved session of this program, or a damaged one") from error
    if session is None:
        raise SessionError(f"{path}: of format {document['format']!r}; this program reads {_FORMAT!r}")
    return session


def _is_whole(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> bool:
    """Returns whether the checksum is that of the content; True without one, as in earlier versions."""
    if set(metadata) == {_TEXT}:
        return True
    return set(metadata) == {_TEXT, _SUM} and metadata[_SUM] == _sum(metadata[_TEXT], tensors)


def _sum(text: str, tensors: Mapping[str, Tensor]) -> str:
    """Returns the SHA-256 of everything that a session is read from."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _take_document(take: Take) -> dict[str, Any]:
    document = {key: getattr(take, key) for key in _TAKE_KEYS}
    if take.then:
        document["then"] = [asdict(steer) for steer in take.then]
        document["later_captions"] = take.later_captions
    return document


def _take_from(document: Mapping[str, Any], latents: Tensor) -> Take:
    values = dict(document)
    values["candidate_frames"] = tuple(values["candidate_frames"])
    if "then" in values:
        values["then"] = tuple(Steer(**steer) for steer in values["then"])
        values["later_captions"] = tuple((int(first), str(text)) for first, text in values["later_captions"])
    return Take(**values, latents=latents)


def _session_from(document: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> SavedSession:
    takes = tuple(
        _take_from(entry, tensors[f"take.{index}"]) for index, entry in enumerate(document["takes"])
    )
    references = tuple(
        EncodedReference(reference=reference_from_document(entry), latent=tensors[f"reference.{index}"])
        for index, entry in enumerate(document.get("references", []))
    )
    pins = tuple(
        Pin(shot_index=shot_index, latent=tensors[f"pin.{index}"])
        for index, shot_index in enumerate(document["pins"])
    )
    return SavedSession(
        **{key: document[key] for key in _SESSION_KEYS}, takes=takes, pins=pins, references=references
    )
