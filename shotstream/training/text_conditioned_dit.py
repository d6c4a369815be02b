"""The diffusion transformer together with its text encoder."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from shotstream.data.captions import StoredText, StoredTextConfig
from shotstream.model.dit import DiT
from shotstream.theatre.caption_encoder import CaptionEncoder, CaptionEncoderConfig
from shotstream.training.parallelize import to_device


class TextConditionedDiT(nn.Module):
    """A DiT and its text encoder: `dit` and `text`."""

    def __init__(self, dit: DiT, text: CaptionEncoderConfig | StoredTextConfig) -> None:
        super().__init__()
        self.dit = dit
        self.text = CaptionEncoder(text) if isinstance(text, CaptionEncoderConfig) else StoredText(text)

    @property
    def device(self) -> torch.device:
        """Device of the transformer."""
        return self.dit.patch_embedding.weight.device

    def embed(self, captions: Sequence[Sequence[str]]) -> Float[Tensor, "b s n d"]:
        """Returns embeddings of each sample's captions.

        All samples get the same number of captions, by padding with empty ones.
        """
        rows = max(len(sample) for sample in captions)
        flat = [caption for sample in captions for caption in (*sample, *[""] * (rows - len(sample)))]
        unique = list(dict.fromkeys(flat))
        if isinstance(self.text, StoredText):
            embedded = to_device(self.text.embed(unique), self.device)
        else:
            embedded = self.text.encode(unique)
        order = torch.tensor([unique.index(caption) for caption in flat], device=self.device)
        return embedded[order].unflatten(0, (len(captions), rows))
