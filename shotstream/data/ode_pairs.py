"""ODE pairs on disk: states of a teacher's probability-flow trajectory, its end, and the conditioning.

There is one safetensors file per batch, with captions in its metadata. `PairFiles` reads them for training,
one file per step, in a new order in every epoch. A damaged file is reported, counted and skipped, up to a
maximum number.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from shotstream.data.checks import require_within
from shotstream.data.rng import numpy_rng
from shotstream.files import write_atomically
from shotstream.model.positions import context_positions
from shotstream.streaming.conditioning import Conditioning, stack_conditioning

log = logging.getLogger(__name__)

_TENSORS = ("states", "history", "context", "shot_phase", "caption_index", "target_phase", "target_caption")


_MADE_BY = "made_by"


@dataclass(frozen=True, kw_only=True, slots=True)
class OdePairs:
    """A batch of trajectories, each of one chunk of a shot."""

    states: Float[Tensor, "b k c f h w"]
    """The chunk at each of the student's noise levels, from pure noise on; the last state is the data."""
    history: Float[Tensor, "b c history_f h w"]
    """Clean earlier chunks of the shots; may have no frames."""
    conditioning: Conditioning
    captions: list[list[str]]
    """Caption rows of each sample."""

    def write(self, path: Path, *, made_by: str = "") -> None:
        """Writes a file atomically, with latents in half precision.

        Args:
            path: The file.
            made_by: Result of `digest_of` for the teacher.
        """
        tensors = {
            "states": self.states.half(),
            "history": self.history.half(),
            "context": self.conditioning.context.half(),
            "shot_phase": self.conditioning.positions.shot_phase,
            "caption_index": self.conditioning.positions.caption_index,
            "target_phase": self.conditioning.target_phase,
            "target_caption": self.conditioning.target_caption,
        }
        contiguous = {name: value.contiguous().cpu() for name, value in tensors.items()}
        if made_by:
            # A tensor, because safetensors writes several metadata entries in an undefined order.
            contiguous[_MADE_BY] = torch.tensor(list(bytes.fromhex(made_by)), dtype=torch.uint8)
        write_atomically(save(contiguous, metadata={"captions": json.dumps(self.captions)}), path)

    @staticmethod
    def made_by(path: Path) -> str:
        """Returns the `digest_of` the teacher that made a file; empty if the file does not give it."""
        with safe_open(path, "pt") as file:
            return bytes(file.get_tensor(_MADE_BY).tolist()).hex() if _MADE_BY in file.keys() else ""  # noqa: SIM118

    @classmethod
    def read(cls, path: Path) -> "OdePairs":
        """Returns the pairs in a file of `write`; latents are in float32."""
        with safe_open(path, "pt") as file:
            captions = json.loads(file.metadata()["captions"])
            values = {name: file.get_tensor(name) for name in _TENSORS}
        return cls(
            states=values["states"].float(),
            history=values["history"].float(),
            conditioning=Conditioning(
                context=values["context"].float(),
                positions=context_positions(values["shot_phase"], values["caption_index"]),
                target_phase=values["target_phase"],
                target_caption=values["target_caption"],
            ),
            captions=captions,
        )

    def part(self, samples: range) -> "OdePairs":
        """Returns some of the samples."""
        rows = slice(samples.start, samples.stop)
        given, positions = self.conditioning, self.conditioning.positions
        return OdePairs(
            states=self.states[rows],
            history=self.history[rows],
            conditioning=Conditioning(
                context=given.context[rows],
                positions=context_positions(positions.shot_phase[rows], positions.caption_index[rows]),
                target_phase=given.target_phase[rows],
                target_caption=given.target_caption[rows],
            ),
            captions=self.captions[rows],
        )

    @staticmethod
    def joined(parts: Sequence["OdePairs"]) -> "OdePairs":
        """Returns pairs of one step that were made in parts, as one batch."""
        return OdePairs(
            states=torch.cat([part.states for part in parts]),
            history=torch.cat([part.history for part in parts]),
            conditioning=stack_conditioning([part.conditioning for part in parts]),
            captions=[rows for part in parts for rows in part.captions],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class PairFilesConfig:
    """Configuration of the files of ODE pairs to train on."""

    max_bad_files: int = 4
    """Maximum number, at least 0, of files that are unreadable or hold non-finite values; they are reported
    and skipped.
    """

    def __post_init__(self) -> None:
        require_within(self, 0, inf, ("max_bad_files",))


class PairFiles:
    """A `DataSource` of ODE pairs: a file is the batch of a step."""

    def __init__(self, config: PairFilesConfig, files: Sequence[Path], *, seed: int) -> None:
        """Creates a source; raises ValueError if there are no files. `seed` is that of their order."""
        if not files:
            raise ValueError("there are no ODE pairs; run the recipe that makes them first")
        self.config, self.files, self.seed = config, files, seed
        self._bad: set[Path] = set()
        self._last: tuple[int, OdePairs] | None = None

    def batch(self, step: int, samples: range) -> OdePairs:
        """Returns samples of a step's file, or of the next good one after it.

        Raises:
            ValueError: More files are bad than `max_bad_files`, or all are.
        """
        return self.read(step).part(samples)

    def read(self, step: int) -> OdePairs:
        """Returns the whole batch of a step; see `batch`."""
        if self._last is None or self._last[0] != step:
            self._last = step, self._read(step)
        return self._last[1]

    def _read(self, step: int) -> OdePairs:
        epoch, index = divmod(step, len(self.files))
        order = numpy_rng(self.seed, "init/order", epoch).permutation(len(self.files))
        for place in range(len(self.files)):
            path = self.files[int(order[(index + place) % len(order)])]
            if path in self._bad:
                continue
            try:
                return _checked(OdePairs.read(path))
            except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
                self._found_bad(path, error)
        raise ValueError(f"no file of pairs in {self.files[0].parent} is good; make them again")

    def _found_bad(self, path: Path, error: Exception) -> None:
        self._bad.add(path)
        log.warning(
            "%s is skipped: %s (%d of at most %d bad files)",
            path, " ".join(str(error).split()), len(self._bad), self.config.max_bad_files,
        )  # fmt: skip
        if len(self._bad) > self.config.max_bad_files:
            raise ValueError(
                f"{len(self._bad)} files of pairs are bad, {path} the last; make them again, or "
                "allow more with data.max_bad_files"
            ) from error


def _checked(pairs: OdePairs) -> OdePairs:
    """Returns the pairs; raises ValueError if they cannot be trained on."""
    if not all(value.isfinite().all() for value in (pairs.states, pairs.history, pairs.conditioning.context)):
        raise ValueError("it holds numbers that are not finite")
    return pairs


def digest_of(weights: Mapping[str, Tensor]) -> str:
    """Returns the SHA-256 of weights, which identifies a teacher."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
