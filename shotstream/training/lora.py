"""Low-rank adapters (LoRA) on a transformer's blocks, through peft: attached for training, merged for use.

Source: LoRA (arXiv 2106.09685); section 5 of arXiv 2603.25746 trains its last stage with them.
"""

from typing import TypeVar

import torch
from torch import nn

from shotstream.model.dit import DiT

Module = TypeVar("Module", bound=nn.Module)

_TARGETS = r"blocks\.\d+\.(self_attn|cross_attn)\.(q|k|v|o)|blocks\.\d+\.ffn\.(0|2)"


def attach_adapters(dit: DiT, *, rank: int, alpha: int, seed: int) -> DiT:
    """Adds an adapter to every linear layer of the blocks, in place, and freezes all other parameters.

    A new adapter does not change the output until it is trained.

    Args:
        dit: The transformer; it is changed and returned.
        rank: Rank of each adapter.
        alpha: The output of an adapter is scaled by alpha / rank.
        seed: Seed of the adapters' first factors.

    Raises:
        ValueError: peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ValueError("low-rank adapters need peft: pip install 'shotstream[train]'") from error
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=_TARGETS, bias="none")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, dit)
    for name, parameter in dit.named_parameters():
        parameter.requires_grad_("lora_" in name)
    return dit


def merge_adapters(module: Module) -> Module:
    """Merges every adapter into its layer and removes it, in place; a module without adapters is not changed.

    The names and shapes of parameters are those before `attach_adapters` again.
    """
    try:
        from peft.tuners.lora import LoraLayer
    except ImportError:
        return module  # no peft: then there are no adapters
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LoraLayer):
                child.merge()
                setattr(parent, name, child.get_base_layer())
    return module
