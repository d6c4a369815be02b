"""The networks of goldens, and the conversions between the goldens' layout and this project's."""

from dataclasses import dataclass

import torch
from torch import Tensor

from shotstream.empty_weights import init_empty_weights
from shotstream.model.config import DiTConfig
from shotstream.model.dit import DiT
from shotstream.verify.golden import Golden
from shotstream.weights.tensor_files import LazyTensor, check_tensors


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """Device and dtype of the networks."""

    device: torch.device
    dtype: torch.dtype


Outputs = dict[str, Tensor]
"""Computed tensors under the golden's names; there may be more than the golden expects."""


def load_dit(golden: Golden, target: Target, prefix: str, *, window_chunks: int = 1) -> DiT:
    """Returns the network of the file.

    The recorded causal passes attend to all earlier chunks, so `window_chunks` must be the number of all
    chunks.
    """
    config = golden.config
    patch = config["patch_size"]
    if config.get("model_type", "t2v") != "t2v" or not config.get("qk_norm", True):
        raise ValueError("only text-to-video transformers with normalised queries and keys are known")
    if not config.get("cross_attn_norm", True) or config["in_dim"] != config["out_dim"]:
        raise ValueError("only transformers with a norm before cross-attention and equal ends are known")
    if patch != [1, patch[1], patch[1]]:
        raise ValueError(f"patch_size {patch}; only square patches of one frame are known")
    dit_config = DiTConfig(
        latent_channels=config["in_dim"],
        dim=config["dim"],
        ffn_dim=config["ffn_dim"],
        num_heads=config["num_heads"],
        num_layers=config["num_layers"],
        text_dim=config["text_dim"],
        text_length=config["text_len"],
        freq_dim=config["freq_dim"],
        patch_size=patch[1],
        eps=float(config["eps"]),
        phase_angle=float(config.get("rope_phase_radians_per_shot", 0.0)),
        num_context_frames=config["num_context_frames"],
        chunk_latent_frames=int(config["num_frames_per_chunk"]),
        window_chunks=window_chunks,
    )
    # Made on the meta device: loading replaces every tensor, strictly.
    with init_empty_weights():
        dit = DiT(dit_config)
    tensors = {name.removeprefix("model."): tensor for name, tensor in golden.weights(prefix).items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in dit.state_dict().items()}
    given = {name: LazyTensor.of(tensor) for name, tensor in tensors.items()}
    check_tensors(shapes, given, "its weights", "they are not of the network that its config describes")
    dit.load_state_dict(tensors, strict=True, assign=True)
    return dit.to(target.device, target.dtype).eval()


def video(latents: Tensor) -> Tensor:
    """Returns latents in the layout of the goldens, b f c h w, as b c f h w."""
    return latents.transpose(1, 2)


def published(latents: Tensor) -> Tensor:
    """Returns latents b c f h w in the layout of the goldens, b f c h w."""
    return latents.transpose(1, 2)
