"""Configs are complete, consistent, and read strictly."""

from dataclasses import replace

import pytest
import torch

from shotstream.model.config import wan_1_3b
from shotstream.model.dit import DiT
from tests.model.tiny import CONFIG


def test_the_published_size_has_825_tensors_and_1418996800_parameters() -> None:
    with torch.device("meta"):
        state = DiT(wan_1_3b()).state_dict()
    assert len(state) == 825
    assert sum(tensor.numel() for tensor in state.values()) == 1_418_996_800
    block = sum(tensor.numel() for name, tensor in state.items() if name.startswith("blocks.17."))
    assert block == 46_440_704
    assert state["patch_embedding.weight"].shape == (1536, 16, 1, 2, 2)
    assert state["time_projection.1.weight"].shape == (9216, 1536)
    assert state["head.modulation"].shape == (1, 2, 1536)


@pytest.mark.parametrize(("head_dim", "split"), [(128, (44, 42, 42)), (32, (12, 10, 10)), (24, (8, 8, 8))])
def test_the_rotary_split_gives_time_what_space_leaves(head_dim: int, split: tuple[int, int, int]) -> None:
    assert replace(CONFIG, dim=2 * head_dim).rotary_split == split


@pytest.mark.parametrize(
    "change",
    [
        {"dim": 50},
        {"dim": 8},
        {"num_layers": 0},
        {"freq_dim": 15},
        {"eps": 0.0},
        {"num_context_frames": -1},
        {"window_chunks": 0},
    ],
)
def test_impossible_sizes_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        replace(CONFIG, **change)
