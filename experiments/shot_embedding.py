"""A transformer in which a learned vector per shot marks cuts: the alternative to RoPE phases in an ablation.

Source: arXiv 2603.25746, "learnable embedding instead". With `phase_angle` 0 only the vectors mark cuts.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from shotstream.model.config import DiTConfig
from shotstream.model.dit import DiT
from shotstream.model.positions import FramePositions
from shotstream.sizes import refuse_sizes
from shotstream.training.recipe import ModelConfig
from shotstream.training.text_conditioned_dit import TextConditionedDiT


class ShotEmbeddingDiT(DiT):
    """A `DiT` that adds a learned vector per shot phase to the tokens of its frames."""

    def __init__(
        self, config: DiTConfig, num_shot_embeddings: int, *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(config, generator=generator)
        self.shot_embedding = nn.Embedding(num_shot_embeddings, config.dim)
        nn.init.normal_(self.shot_embedding.weight, std=0.02, generator=generator)
        # Behind it, as in the runs that are saved: gradients are summed in the order of the parameters.
        for name in ("blocks", "head"):
            module = getattr(self, name)
            delattr(self, name)
            setattr(self, name, module)

    def embed_tokens(
        self, x: Float[Tensor, "b c f h w"], positions: FramePositions
    ) -> Float[Tensor, "b f p d"]:
        """Returns a token for every patch, with the vector of its frame's shot phase added."""
        return super().embed_tokens(x, positions) + self.shot_embedding(positions.shot_phase).unsqueeze(2)


@dataclass(frozen=True, kw_only=True, slots=True)
class ShotEmbeddingModelConfig(ModelConfig):
    """A `ModelConfig` whose transformer has a learned vector per shot."""

    num_shot_embeddings: int
    """Number of the vectors; shot phases are from 0 to one less."""

    def __post_init__(self) -> None:
        ModelConfig.__post_init__(self)  # slots make another class of this one, which super() does not know
        refuse_sizes(self, ("num_shot_embeddings",))

    def build(self) -> TextConditionedDiT:
        """Returns the model with random weights."""
        return TextConditionedDiT(ShotEmbeddingDiT(self.dit, self.num_shot_embeddings), self.text)
