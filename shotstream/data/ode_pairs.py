"""ODE pairs on disk: states of a teacher's probability-flow trajectory and the data it ends at, with what it
was conditioned on. One safetensors file per batch; captions are in its metadata.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from shotstream.files import write_atomically
from shotstream.model.positions import context_positions
from shotstream.streaming.conditioning import Conditioning

_TENSORS = ("states", "history", "context", "shot_phase", "caption_index", "target_phase", "target_caption")


_MADE_BY = "made_by"


@dataclass(frozen=True, kw_only=True, slots=True)
class OdePairs:
    """Trajectories of one chunk of several shots."""

    states: Float[Tensor, "b k c f h w"]
    """The chunk at each of the student's levels, from noise on; the last is the data."""
    history: Float[Tensor, "b c history_f h w"]
    """Clean earlier chunks of the shots; may hold no frame."""
    conditioning: Conditioning
    captions: list[list[str]]
    """Caption rows of each sample."""

    def write(self, path: Path, *, made_by: str = "") -> None:
        """Writes a file that is whole or not there; latents in half precision.

        Args:
            path: the file.
            made_by: `digest_of` the teacher.
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
            # A tensor, because safetensors writes metadata of more than one entry in any order.
            contiguous[_MADE_BY] = torch.tensor(list(bytes.fromhex(made_by)), dtype=torch.uint8)
        write_atomically(save(contiguous, metadata={"captions": json.dumps(self.captions)}), path)

    @staticmethod
    def made_by(path: Path) -> str:
        """`digest_of` the teacher that made a file; empty: it does not say."""
        with safe_open(path, "pt") as file:
            return bytes(file.get_tensor(_MADE_BY).tolist()).hex() if _MADE_BY in file.keys() else ""  # noqa: SIM118

    @classmethod
    def read(cls, path: Path) -> "OdePairs":
        """Reads a file that `write` wrote; latents come back in float32."""
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


def digest_of(weights: Mapping[str, Tensor]) -> str:
    """sha256 of weights, by which a teacher is known again."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
