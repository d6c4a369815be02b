"""ODE pairs on disk: states of a teacher's probability-flow trajectory and the data it ends at, with what it
was conditioned on. One safetensors file per batch; captions are in its metadata.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from shotstream.files import write_atomically
from shotstream.model.positions import context_positions
from shotstream.streaming.conditioning import Conditioning

_TENSORS = ("states", "history", "context", "shot_phase", "caption_index", "target_phase", "target_caption")


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

    def write(self, path: Path) -> None:
        """Writes a file that is whole or not there; latents in half precision."""
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
        write_atomically(save(contiguous, metadata={"captions": json.dumps(self.captions)}), path)

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
