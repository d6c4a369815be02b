"""Sizes of Wan2.1's VAE, and the modules that hold its tensors, named as in diffusers' `AutoencoderKLWan`.

The modules have no `forward`: `wan_encoder.py` and `wan_decoder.py` compute with their tensors.

Source: Wan2.1 (arXiv 2503.20314).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from shotstream.empty_weights import init_empty_weights
from shotstream.sizes import refuse_sizes

_PUBLISHED_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
_PUBLISHED_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip

_COLOURS = 3

_MOST_LEVELS = 8
_FEW = 3
"""Maximum number of names in an error message."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WanVAEConfig:
    """Sizes of the autoencoder; the defaults are those of the published Wan2.1 VAE."""

    dim: int = 96
    """Number of channels at full resolution, at least 1."""
    latent_channels: int = 16
    """Number of channels of a latent frame, at least 1."""
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    """Number of channels of each level, in multiples of `dim`; height and width are halved between levels."""
    num_res_blocks: int = 2
    """Number of residual blocks of each encoder level, at least 1; a decoder level has one more."""
    temporal_downsample: tuple[bool, ...] = (False, True, True)
    """Whether each halving of height and width also halves the number of frames."""
    latents_mean: tuple[float, ...] = _PUBLISHED_MEAN
    """Mean of each latent channel before normalisation."""
    latents_std: tuple[float, ...] = _PUBLISHED_STD
    """Standard deviation of each latent channel before normalisation."""

    def __post_init__(self) -> None:
        refuse_sizes(self, ("dim", "latent_channels", "num_res_blocks"))
        if (
            not 1 <= len(self.dim_mult) <= _MOST_LEVELS
            or not 1 <= min(self.dim_mult) <= max(self.dim_mult) <= 64
        ):
            raise ValueError(f"dim_mult is {self.dim_mult}; give 1 to {_MOST_LEVELS} numbers of 1 to 64")
        if len(self.temporal_downsample) != len(self.dim_mult) - 1:
            raise ValueError(
                f"temporal_downsample has {len(self.temporal_downsample)} entries; "
                f"it needs one between each two of the {len(self.dim_mult)} levels of dim_mult"
            )
        for name in ("latents_mean", "latents_std"):
            if len(getattr(self, name)) != self.latent_channels:
                raise ValueError(
                    f"{name} has {len(getattr(self, name))} entries; it needs {self.latent_channels}, "
                    "one per latent channel"
                )
        if min(self.latents_std) <= 0:
            raise ValueError("latents_std must be positive")

    @property
    def temporal_stride(self) -> int:
        """Number of video frames per latent frame, after the first."""
        return 2 ** sum(self.temporal_downsample)

    @property
    def spatial_stride(self) -> int:
        """Number of pixels per latent, in height and in width."""
        return 2 ** (len(self.dim_mult) - 1)


class WanTensors(nn.Module):
    """The tensors of the whole VAE."""

    def __init__(self, config: WanVAEConfig) -> None:
        super().__init__()
        both = 2 * config.latent_channels
        self.encoder = Encoder(config)
        self.quant_conv = nn.Conv3d(both, both, 1)
        """1x1 convolution after the encoder; its output is the means, then the log variances."""
        self.post_quant_conv = nn.Conv3d(config.latent_channels, config.latent_channels, 1)
        self.decoder = Decoder(config)

    @classmethod
    def of(cls, config: WanVAEConfig, tensors: Mapping[str, Tensor]) -> "WanTensors":
        """Returns a VAE of the given tensors, frozen; the weights of convolutions are channels-last.

        Raises:
            ValueError: A name is missing or unexpected, or a shape differs.
        """
        _check(wan_vae_shapes(config), tensors)
        with init_empty_weights():
            made = cls(config)
        made.load_state_dict(dict(tensors), assign=True)
        for part in made.modules():
            if isinstance(part, nn.Conv2d | nn.Conv3d):
                kind = torch.channels_last if isinstance(part, nn.Conv2d) else torch.channels_last_3d
                part.weight.data = part.weight.data.contiguous(memory_format=kind)
        return made.eval().requires_grad_(False)


class Encoder(nn.Module):
    """The encoder's tensors: from pixels to means and log variances."""

    def __init__(self, config: WanVAEConfig) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        width = config.dim
        for level, mult in enumerate(config.dim_mult):
            for _ in range(config.num_res_blocks):
                blocks.append(Residual(width, config.dim * mult))
                width = config.dim * mult
            if level < len(config.temporal_downsample):
                time = nn.Conv3d(width, width, (3, 1, 1)) if config.temporal_downsample[level] else None
                blocks.append(Resample(width, width, time))
        self.conv_in = nn.Conv3d(_COLOURS, config.dim, 3)
        self.down_blocks = nn.ModuleList(blocks)
        self.mid_block = Middle(width)
        self.norm_out = Norm(width, 3)
        self.conv_out = nn.Conv3d(width, 2 * config.latent_channels, 3)


class Decoder(nn.Module):
    """The decoder's tensors: from raw latents to pixels."""

    def __init__(self, config: WanVAEConfig) -> None:
        super().__init__()
        width = config.dim * config.dim_mult[-1]
        self.conv_in = nn.Conv3d(config.latent_channels, width, 3)
        self.mid_block = Middle(width)
        self.up_blocks = nn.ModuleList()
        temporal = config.temporal_downsample[::-1]
        for level, mult in enumerate(reversed(config.dim_mult)):
            up = Up(width, config.dim * mult, config.num_res_blocks + 1)
            width = config.dim * mult
            if level < len(temporal):
                time = nn.Conv3d(width, 2 * width, (3, 1, 1)) if temporal[level] else None
                up.upsamplers.append(Resample(width, width // 2, time))
                width = width // 2
            self.up_blocks.append(up)
        self.norm_out = Norm(width, 3)
        self.conv_out = nn.Conv3d(width, _COLOURS, 3)


class Up(nn.Module):
    """A level of the decoder; the last one has no upsampler."""

    def __init__(self, width: int, next_width: int, num_blocks: int) -> None:
        super().__init__()
        widths = [width] + [next_width] * num_blocks
        self.resnets = nn.ModuleList(Residual(a, b) for a, b in pairwise(widths))
        self.upsamplers = nn.ModuleList()


class Middle(nn.Module):
    """The middle block between the levels and the latents, in both encoder and decoder."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([Residual(width, width), Residual(width, width)])
        self.attentions = nn.ModuleList([Attention(width)])


class Residual(nn.Module):
    """A residual block: two causal convolutions, each after a norm and SiLU."""

    def __init__(self, width: int, next_width: int) -> None:
        super().__init__()
        self.norm1 = Norm(width, 3)
        self.conv1 = nn.Conv3d(width, next_width, 3)
        self.norm2 = Norm(next_width, 3)
        self.conv2 = nn.Conv3d(next_width, next_width, 3)
        self.conv_shortcut = None if width == next_width else nn.Conv3d(width, next_width, 1)


class Attention(nn.Module):
    """Attention within each frame, with one head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = Norm(width, 2)
        self.to_qkv = nn.Conv2d(width, 3 * width, 1)
        self.proj = nn.Conv2d(width, width, 1)


class Resample(nn.Module):
    """A convolution that changes height and width, and one over time if the number of frames changes."""

    def __init__(self, width: int, next_width: int, time: nn.Conv3d | None) -> None:
        super().__init__()
        # The layer that changes the size has no tensors, but an index in the names.
        self.resample = nn.Sequential(nn.Identity(), nn.Conv2d(width, next_width, 3))
        self.time_conv = time

    @property
    def space(self) -> nn.Conv2d:
        """The convolution over each frame."""
        found = self.resample[1]
        assert isinstance(found, nn.Conv2d)
        return found


class Norm(nn.Module):
    """The scale of an RMS norm, one factor for each channel, in the published shape."""

    def __init__(self, width: int, num_axes: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width, *[1] * num_axes))


def wan_vae_shapes(config: WanVAEConfig) -> dict[str, tuple[int, ...]]:
    """Returns the name and shape of every tensor of the VAE."""
    with init_empty_weights():
        return {name: tuple(tensor.shape) for name, tensor in WanTensors(config).state_dict().items()}


def _check(expected: Mapping[str, tuple[int, ...]], given: Mapping[str, Tensor]) -> None:
    differing = [name for name in expected if name in given and tuple(given[name].shape) != expected[name]]
    findings = [
        f"{len(names)} {what} ({', '.join(sorted(names)[:_FEW])}{', ...' if len(names) > _FEW else ''})"
        for what, names in (
            ("missing", expected.keys() - given.keys()),
            ("unexpected", given.keys() - expected.keys()),
            ("of another shape", differing),
        )
        if names
    ]
    if findings:
        raise ValueError(f"these tensors are not a Wan VAE of these sizes: {'; '.join(findings)}")
