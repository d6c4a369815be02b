"""The lossless state of a session, and the one file it is saved in.

A safetensors file: latents as tensors, everything else as JSON in its metadata, so that a session is on
disk whole or not at all. Unknown versions and keys are refused. A sum over all of it is in the metadata too,
and is checked when the file is read; files of earlier versions have none, and are read without.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from shotstream.files import write_atomically
from shotstream.streaming.shot_memory import ShotMemory

_FORMAT = "shotstream-session/1"


class SessionError(ValueError):
    """A file that is no saved session, a damaged one, or one of another model; one line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Take(ShotMemory):
    """A take: one rendering of a shot, with what it was made from and the memory of it."""

    seed: int
    """Seed of its noise."""
    num_steps: int
    """Denoising steps per chunk."""
    num_chunks: int
    """Its length."""
    keep_s: float = 0.0
    """Seconds it took to encode what is kept, some while the shot was made; 0 in a loaded session."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pin:
    """A picture that stays in the context."""

    shot_index: int
    """The shot that it counts as a frame of."""
    latent: Float[Tensor, "z h w"] = field(repr=False)
    """The picture, encoded alone; float32, on the CPU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SavedSession:
    """The whole state of a session."""

    model_id: str
    """Name of the model, for messages."""
    weights_sha256: str
    """The weights that the takes and their latents belong to."""
    context_policy: str
    """How context frames were chosen."""
    global_caption: str
    """What all shots share."""
    seed: int
    """Seed of shots without one."""
    takes: tuple[Take, ...]
    """The finished shots."""
    pins: tuple[Pin, ...]
    """The pinned pictures, in the order of pinning."""


_TEXT, _SUM = "session", "sha256"
"""Names in the file's metadata."""
_SESSION_KEYS = ("model_id", "weights_sha256", "context_policy", "global_caption", "seed")
_TAKE_KEYS = ("caption", "seed", "num_steps", "num_chunks", "num_frames", "candidate_frames")


def write_session(path: Path, session: SavedSession) -> None:
    """Write a session to `path`, whole or not at all whatever happens meanwhile."""
    document = {
        "format": _FORMAT,
        **{key: getattr(session, key) for key in _SESSION_KEYS},
        "takes": [{key: getattr(take, key) for key in _TAKE_KEYS} for take in session.takes],
        "pins": [pin.shot_index for pin in session.pins],
    }
    tensors = {f"take.{index}": take.latents.contiguous() for index, take in enumerate(session.takes)}
    tensors |= {f"pin.{index}": pin.latent.contiguous() for index, pin in enumerate(session.pins)}
    text = json.dumps(document, ensure_ascii=False)
    write_atomically(save(tensors, metadata={_TEXT: text, _SUM: _sum(text, tensors)}), path)


def read_session(path: Path) -> SavedSession:
    """The session in a file.

    Raises:
        SessionError: There is none, or it is damaged.
    """
    if not path.is_file():
        raise SessionError(f"{path}: no such saved session")
    try:
        with safe_open(path, "pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            names = cast("list[str]", list(file.keys()))
            # Cloned: the tensors would hold on to the mapped file, which may be replaced or deleted.
            tensors: dict[str, Tensor] = {name: file.get_tensor(name).clone() for name in names}
    except (SafetensorError, OSError) as error:
        raise SessionError(f"{path}: not a saved session, or a damaged one") from error
    try:
        document = json.loads(metadata[_TEXT])
        is_known = document["format"] == _FORMAT
        if is_known and not _is_whole(metadata, tensors):
            raise SessionError(
                f"{path}: damaged: it is not what was written; take a copy of it, or begin anew"
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
    """Whether the file's sum is that of its content; or it has none, as earlier versions wrote them."""
    if set(metadata) == {_TEXT}:
        return True
    return set(metadata) == {_TEXT, _SUM} and metadata[_SUM] == _sum(metadata[_TEXT], tensors)


def _sum(text: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of everything that a session is read from."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _session_from(document: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> SavedSession:
    takes = tuple(
        Take(
            **{key: value for key, value in entry.items() if key != "candidate_frames"},
            candidate_frames=tuple(entry["candidate_frames"]),
            latents=tensors[f"take.{index}"],
        )
        for index, entry in enumerate(document["takes"])
    )
    pins = tuple(
        Pin(shot_index=shot_index, latent=tensors[f"pin.{index}"])
        for index, shot_index in enumerate(document["pins"])
    )
    return SavedSession(**{key: document[key] for key in _SESSION_KEYS}, takes=takes, pins=pins)
