"""Parts of a bundle that a run starts from: the transformer, and the codec of its family.

Only the requested parts are read, and none to show or refuse a recipe.
"""

from pathlib import Path

import torch

from shotstream.configs import config_from_document
from shotstream.geometry import LatentSize
from shotstream.model.config import DiTConfig
from shotstream.model.dit import DiT
from shotstream.streaming.inference_options import DEFAULT_INFERENCE_OPTIONS
from shotstream.streaming.parts import load_codec, pipeline_config
from shotstream.vae.codec import Codec
from shotstream.weights.bundle import read_bundle
from shotstream.weights.hub import resolve


def begin_at(dit: DiT, name: str | Path) -> None:
    """Loads the weights of a bundle into a transformer.

    Phases and context levels have no weights and may differ: the base model has neither.

    Raises:
        ValueError: There is no such bundle, or its transformer has other sizes.
    """
    bundle = read_bundle(resolve(name), parts=("dit",))
    try:
        dit.load_state_dict(bundle.tensors["dit"])
    except RuntimeError as error:
        found = config_from_document(DiTConfig, bundle.config.get("dit"), f"{bundle.directory}: dit")
        raise ValueError(
            f"{bundle.directory} holds a transformer of {found}, the recipe wants {dit.config}"
        ) from error


def codec_of(name: str | Path, device: torch.device | str = "cpu") -> tuple[Codec, LatentSize]:
    """Returns the frozen codec of a bundle, in float32, and the size of its model's latent frames.

    Raises:
        ValueError: There is no such bundle.
    """
    bundle = read_bundle(resolve(name), parts=("codec",))
    codec = load_codec(bundle, torch.device(device), torch.float32, DEFAULT_INFERENCE_OPTIONS)
    return codec, codec.geometry.latent_size(pipeline_config(bundle).pixel_size)
