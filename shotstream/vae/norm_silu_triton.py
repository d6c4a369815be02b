# pyright: basic, reportCallIssue=false
"""Triton kernels of `norm_silu`: each program processes a block of pixels with all their channels.

The module can be imported without Triton; then it holds only the constants. Block sizes are fixed, because
autotuning at the first call would wait for the device.
"""

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:
    HAVE_TRITON = False
else:
    HAVE_TRITON = True

REMEMBERED = 2
"""Number of earlier frames that a causal convolution sees: its kernel is three frames long."""

SHORTEST = 1e-12
"""Minimum of the norm that a pixel's channels are divided by; it avoids a division by zero."""

_TILE = 4096
"""Number of values that a program holds at once: 32 for each of its 128 threads."""

if HAVE_TRITON:
    # These numbers do not affect the alignment of addresses, whose step is the number of channels.
    @triton.jit(do_not_specialize=["num_frames", "num_pixels"])
    def norm_silu_kernel(
        before_ptr,
        x_ptr,
        gamma_ptr,
        bias_ptr,
        joined_ptr,
        after_ptr,
        num_frames,
        num_pixels,
        shortest,
        CHANNELS: tl.constexpr,
        PAST: tl.constexpr,
        HAS_BEFORE: tl.constexpr,
        HAS_BIAS: tl.constexpr,
        PIXELS: tl.constexpr,
        WIDTH: tl.constexpr,
    ):
        """Computes a block of pixels of output frame `program_id(1)`; the output begins with the past
        frames.
        """
        frame = tl.program_id(1)
        video = tl.program_id(2).to(tl.int64)
        pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)[:, None]
        channel = tl.arange(0, WIDTH)[None, :]
        inside = (pixel < num_pixels) & (channel < CHANNELS)
        within = pixel * CHANNELS + channel
        frame_size = num_pixels * CHANNELS
        if frame < PAST:
            result = tl.zeros([PIXELS, WIDTH], dtype=tl.float32)
            if HAS_BEFORE:
                place = (video * PAST + frame) * frame_size + within
                result = tl.load(before_ptr + place, mask=inside, other=0.0).to(tl.float32)
        else:
            place = (video * num_frames + frame - PAST) * frame_size + within
            x = tl.load(x_ptr + place, mask=inside, other=0.0).to(tl.float32)
            if HAS_BIAS:
                x += tl.load(bias_ptr + channel, mask=channel < CHANNELS, other=0.0).to(tl.float32)
            gamma = tl.load(gamma_ptr + channel, mask=channel < CHANNELS, other=0.0).to(tl.float32)
            length = tl.sqrt(tl.sum(x * x, axis=1))[:, None]
            x = x / tl.maximum(length, shortest) * (gamma * tl.sqrt(CHANNELS * 1.0))
            result = x * tl.sigmoid(x)
        rounded = result.to(joined_ptr.dtype.element_ty)
        tl.store(
            joined_ptr + (video * (PAST + num_frames) + frame) * frame_size + within, rounded, mask=inside
        )
        if frame >= num_frames:
            place = (video * PAST + frame - num_frames) * frame_size + within
            tl.store(after_ptr + place, rounded, mask=inside)

    @triton.jit(do_not_specialize=["num_pixels"])
    def add_biased_kernel(
        x_ptr,
        bias_ptr,
        other_ptr,
        sum_ptr,
        num_pixels,
        CHANNELS: tl.constexpr,
        PIXELS: tl.constexpr,
        WIDTH: tl.constexpr,
    ):
        """Computes a block of pixels, over all frames."""
        pixel = tl.program_id(0).to(tl.int64) * PIXELS + tl.arange(0, PIXELS)[:, None]
        channel = tl.arange(0, WIDTH)[None, :]
        inside = (pixel < num_pixels) & (channel < CHANNELS)
        place = pixel * CHANNELS + channel
        x = tl.load(x_ptr + place, mask=inside, other=0.0).to(tl.float32)
        other = tl.load(other_ptr + place, mask=inside, other=0.0).to(tl.float32)
        bias = tl.load(bias_ptr + channel, mask=channel < CHANNELS, other=0.0).to(tl.float32)
        tl.store(sum_ptr + place, (x + bias + other).to(sum_ptr.dtype.element_ty), mask=inside)

    def norm_silu(x: Tensor, gamma: Tensor, bias: Tensor | None) -> Tensor:
        """Returns the result of `norm_silu.norm_silu`."""
        result = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        _launch(None, x, gamma, bias, result, result, past=0)
        return result

    def norm_silu_behind(
        before: Tensor | None, x: Tensor, gamma: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Returns the results of `norm_silu.norm_silu_behind`."""
        batch, frames, *pixel = x.shape
        joined = torch.empty(batch, REMEMBERED + frames, *pixel, dtype=x.dtype, device=x.device)
        after = torch.empty(batch, REMEMBERED, *pixel, dtype=x.dtype, device=x.device)
        _launch(before, x, gamma, bias, joined, after, past=REMEMBERED)
        return joined, after

    def _launch(
        before: Tensor | None,
        x: Tensor,
        gamma: Tensor,
        bias: Tensor | None,
        joined: Tensor,
        after: Tensor,
        *,
        past: int,
    ) -> None:
        batch, frames, height, width, channels = x.shape
        block = triton.next_power_of_2(channels)
        pixels = max(1, _TILE // block)
        x = x.contiguous()
        # Triton launches on the current device, which need not be the tensors'.
        with torch.cuda.device_of(x):
            norm_silu_kernel[(triton.cdiv(height * width, pixels), past + frames, batch)](
                # Pointers of tensors that are None are never read.
                x if before is None else before.contiguous(),
                x,
                gamma,
                x if bias is None else bias,
                joined,
                after,
                frames,
                height * width,
                SHORTEST,
                CHANNELS=channels,
                PAST=past,
                HAS_BEFORE=before is not None,
                HAS_BIAS=bias is not None,
                PIXELS=pixels,
                WIDTH=block,
                num_warps=4,
            )

    def add_biased(x: Tensor, bias: Tensor, other: Tensor) -> Tensor:
        """Returns the result of `norm_silu.add_biased`."""
        channels = x.shape[-1]
        num_pixels = x.numel() // channels
        block = triton.next_power_of_2(channels)
        pixels = max(1, _TILE // block)
        result = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        with torch.cuda.device_of(x):
            add_biased_kernel[(triton.cdiv(num_pixels, pixels),)](
                x.contiguous(),
                bias,
                other.contiguous(),
                result,
                num_pixels,
                CHANNELS=channels,
                PIXELS=pixels,
                WIDTH=block,
                num_warps=4,
            )
        return result
