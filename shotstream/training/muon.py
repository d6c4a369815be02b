"""Muon: an optimizer whose step is the momentum of a matrix with nearly equal singular values.

torch.optim.Muon always computes in bfloat16, which is ten times slower than float32 on CPUs without bfloat16
instructions. Here such a CPU computes in float32, matrices of one shape are processed together, and states
are interchangeable with torch's.

Source: Muon (Keller Jordan, 2024), scaled to AdamW's root mean square as in arXiv 2502.16982.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from shotstream.training.parallelize import like, whole

_A, _B, _C = 3.4445, -4.7750, 2.0315
"""Coefficients of the quintic iteration, with the largest slope at zero."""
_NUM_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """The Muon optimizer for hidden matrices; embeddings, heads and vectors use AdamW."""

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        lr: float,
        *,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        """Creates the optimizer; raises ValueError if a parameter is not a matrix."""
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.ndim != 2:
                    raise ValueError(f"Muon trains matrices, got the shape {tuple(parameter.shape)}")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Updates every parameter that has a gradient."""
        assert closure is None, "a step with a closure is not supported"
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in by_shape.items():
                # A sharded matrix is gathered first: parts of an orthogonal matrix are not orthogonal.
                moved = torch.stack([whole(self._momentum(one, group["momentum"])) for one in parameters])
                scale = group["lr"] * 0.2 * math.sqrt(max(shape))
                for parameter, update in zip(parameters, orthogonalised(moved), strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.sub_(like(update.to(parameter.dtype), parameter), alpha=scale)

    def _momentum(self, parameter: nn.Parameter, momentum: float) -> Tensor:
        """Returns Nesterov momentum: the momentum after the next step."""
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        buffer = state.setdefault("momentum_buffer", torch.zeros_like(gradient))
        buffer.lerp_(gradient, 1 - momentum)
        return gradient.lerp(buffer, momentum)


def has_fast_bfloat16(device: torch.device) -> bool:
    """Returns whether a device multiplies matrices in bfloat16 faster than in float32.

    This holds for GPUs and for CPUs with AVX512-BF16 or AMX; others were measured ten times slower
    (`docs/LOG.md`).
    """
    if device.type == "cpu":
        found = torch.cpu.get_capabilities()
        return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
    return device.type == "cuda"


def orthogonalised(matrices: Float[Tensor, "n rows columns"]) -> Float[Tensor, "n rows columns"]:
    """Returns matrices with singular values of about one (0.7 to 1.2), by Newton-Schulz iterations."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.to(torch.bfloat16 if has_fast_bfloat16(matrices.device) else torch.float32)
    x = x.mT if tall else x
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(_NUM_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C), x, beta=_A)
    return (x.mT if tall else x).to(matrices.dtype)
