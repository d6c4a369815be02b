"""A light decoder of Wan2.1's latents for previews: TAEHV, with its published weights.

It reads the decoder half of `taew2_1` (github.com/madebyollin/taehv): a sequence of convolutions over frames,
some of which also see the previous frame, and of layers that make two frames of one. From normalised latents
it computes a similar picture with a small part of the arithmetic, never the same pixels. It is not a `Codec`:
it has no encoder, and later shots are never conditioned on its frames.

The layout (an `nn.Sequential`, whose indices are in the names) was written down without the published file;
every name and shape of the decoder is checked. **The published file itself has not been read by this
program.**

Source: TAEHV's README: pixels in [0, 1], latents as they are, the first three frames of a video left out.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from shotstream.empty_weights import init_empty_weights
from shotstream.vae.codec import DecodeState

_PART = "decoder."
_OTHER_PART = "encoder."


class TinyDecoder(nn.Module):
    """A decoder from latents to pixels, streamed with a `DecodeState` like that of a codec."""

    def __init__(
        self, latent_channels: int = 16, widths: tuple[int, int, int, int] = (256, 128, 64, 64)
    ) -> None:
        """Creates a decoder with random weights; the defaults are the published sizes."""
        super().__init__()
        layers: list[nn.Module] = [_Clamp(), nn.Conv2d(latent_channels, widths[0], 3, padding=1), nn.ReLU()]
        for width, next_width, num_frames in zip(widths, widths[1:], _FRAMES_OF_ONE, strict=False):
            layers += [_WithPast(width) for _ in range(3)]
            layers += [nn.Upsample(scale_factor=2), _Grow(width, num_frames)]
            layers += [nn.Conv2d(width, next_width, 3, padding=1, bias=False)]
        layers += [nn.ReLU(), nn.Conv2d(widths[3], 3, 3, padding=1)]
        self.decoder = nn.Sequential(*layers)
        self.latent_channels = latent_channels

    @classmethod
    def from_tensors(
        cls,
        tensors: Mapping[str, Tensor],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> "TinyDecoder":
        """Returns a decoder with the given weights, under the published names; the encoder's are ignored.

        Raises:
            ValueError: A name of the decoder is missing or unexpected, or a shape differs.
        """
        foreign = [name for name in tensors if not name.startswith((_PART, _OTHER_PART))]
        given = {name: tensor for name, tensor in tensors.items() if name.startswith(_PART)}
        try:
            widths = [given[f"{_PART}{place}.weight"].shape[0] for place in (1, 8, 14, 20)]
            latent_channels = given[f"{_PART}1.weight"].shape[1]
        except KeyError as error:
            raise ValueError(f"not a TAEHV decoder: {error} is not there; give taew2_1's file") from error
        except IndexError as error:
            raise ValueError(
                "not a TAEHV decoder: its weights are not kernels; give taew2_1's file"
            ) from error
        if foreign:
            raise ValueError(f"not a TAEHV decoder: unexpected {foreign[0]!r}; give taew2_1's file")
        with init_empty_weights():
            made = cls(latent_channels, (widths[0], widths[1], widths[2], widths[3]))
        shapes = {name: tensor.shape for name, tensor in made.state_dict().items()}
        for name in sorted(shapes.keys() | given.keys()):
            if name not in given or name not in shapes:
                what = "missing" if name not in given else "unexpected"
                raise ValueError(
                    f"not a TAEHV decoder of Wan2.1's kind: {name!r} is {what}; give taew2_1's file"
                )
            if given[name].shape != shapes[name]:
                raise ValueError(
                    f"not a TAEHV decoder of Wan2.1's kind: {name!r} is {list(given[name].shape)} and should "
                    f"be {list(shapes[name])}; give taew2_1's file"
                )
        placed = {name: tensor.to(device=device, dtype=dtype) for name, tensor in given.items()}
        made.load_state_dict(placed, strict=True, assign=True)
        return made.eval().requires_grad_(False)

    def decode(self, latents: Float[Tensor, "b z latent_f latent_h latent_w"]) -> Float[Tensor, "b 3 f h w"]:
        """Returns float32 pixels in [-1, 1] of complete videos, from their first latent frame on."""
        return self.decode_stream(latents, None)[0]

    @torch.no_grad()
    def decode_stream(
        self, latents: Float[Tensor, "b z latent_f latent_h latent_w"], state: DecodeState | None
    ) -> tuple[Float[Tensor, "b 3 f h w"], DecodeState]:
        """Returns float32 pixels in [-1, 1] of the next latent frames, and the next state; see `Codec`.

        The state holds the last frame of the input of each `_WithPast` layer; zeros precede a video.
        """
        if latents.shape[2] < 1:
            raise ValueError("no latent frame to decode; give at least 1")
        weight = self.get_parameter("decoder.1.weight")
        batch = latents.shape[0]
        x = rearrange(latents.to(weight), "b z f h w -> (b f) z h w")
        before = None if state is None else iter(state.features)
        after: list[Tensor] = []
        for layer in self.decoder:
            if not isinstance(layer, _WithPast):
                x = layer(x)
                continue
            frames = rearrange(x, "(b f) c h w -> b f c h w", b=batch)
            first = torch.zeros_like(frames[:, :1]) if before is None else next(before)
            past = torch.cat([first, frames[:, :-1]], dim=1).flatten(0, 1)
            after.append(frames[:, -1:].clone())
            x = layer(x, past)
        pixels = rearrange(x, "(b f) c h w -> b c f h w", b=batch).float().clamp(0, 1) * 2 - 1
        if state is None:
            pixels = pixels[:, :, _STRIDE - 1 :]
        seen = latents.shape[2] + (0 if state is None else state.num_latent_frames)
        return pixels, DecodeState(num_latent_frames=seen, features=tuple(after))


_FRAMES_OF_ONE = (1, 2, 2)
"""Number of frames that each level makes of one."""

_STRIDE = 4


class _Clamp(nn.Module):
    """Keeps latents softly within 3 standard deviations."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


class _WithPast(nn.Module):
    """A residual layer over a frame and the previous one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(2 * width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor, past: Tensor) -> Tensor:
        return F.relu(self.conv(torch.cat([x, past], dim=1)) + x)


class _Grow(nn.Module):
    """A layer that makes several consecutive frames of each frame."""

    def __init__(self, width: int, num_frames: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width * num_frames, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).reshape(-1, *x.shape[1:])
