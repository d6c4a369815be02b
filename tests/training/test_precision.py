"""What is kept in half precision, and that nothing which is computed changes by it; how a GPU masks."""

import copy
from dataclasses import replace

import torch

from shotstream.training.causal_masks import mask_form
from shotstream.training.precision import hold_as_multiplied, multiplying
from tests.model.tiny import CONFIG, captions, latents, level, target, tiny_dit


@torch.no_grad()
def test_a_frozen_network_in_half_precision_says_what_it_said() -> None:
    device, whole = torch.device("cpu"), tiny_dit()
    halved = copy.deepcopy(whole)
    hold_as_multiplied(halved, "float32")
    assert {value.dtype for value in halved.parameters()} == {torch.float32}
    hold_as_multiplied(halved, "bfloat16")
    kinds = {name: value.dtype for name, value in halved.named_parameters()}
    assert kinds["blocks.0.self_attn.q.weight"] == kinds["head.head.weight"] == torch.bfloat16
    assert kinds["blocks.0.modulation"] == kinds["blocks.0.self_attn.norm_q.weight"] == torch.float32
    said: list[torch.Tensor] = []
    for dit in (whole, halved):
        with multiplying("bfloat16", device):
            said.append(dit(latents(4), level(0.5, 4), captions(), target(4)))
    assert torch.equal(*said)


def test_heads_too_narrow_for_flex_attention_are_masked_by_slices() -> None:
    """The tiny models of the tests have such heads: on a GPU their causal steps would all have failed."""
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    wide, narrow = (replace(CONFIG, dim=CONFIG.num_heads * width) for width in (16, 12))
    assert [mask_form(*case) for case in ((cuda, wide), (cuda, narrow), (cpu, wide))] == [
        "block",
        "slices",
        "slices",
    ]
