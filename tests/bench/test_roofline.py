import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from shotstream.bench.roofline import (
    Ceilings,
    Cost,
    chunk_cost,
    context_cost,
    measure_ceilings,
    roofline_rows,
    shot_cost,
)
from shotstream.geometry import TokenGrid
from shotstream.model.config import wan_1_3b
from shotstream.model.positions import chunk_positions
from tests.streaming.tiny import LATENT_SIZE, tiny_cache, tiny_conditioning, tiny_config, tiny_dit, tiny_text

WAN_GRID = TokenGrid(30, 52)


@pytest.mark.parametrize("num_captions", [1, 3])
def test_counted_operations_are_those_that_torch_counts(num_captions: int) -> None:
    """torch counts no fused attention of a CPU: with the plain one it sees both products."""
    config = tiny_config()
    dit, conditioning = tiny_dit(config), tiny_conditioning(config)
    cache, text = tiny_cache(dit), tiny_text(config, num_captions=num_captions)
    captions = conditioning.positions.caption_index.clamp(max=num_captions - 1)
    shape = (1, config.latent_channels, 3, LATENT_SIZE.height, LATENT_SIZE.width)
    counted: list[int] = []
    with torch.no_grad(), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        keys = dit.text_cache(text)
        positions = conditioning.positions
        for chunk_index in (None, 0, 1):
            if chunk_index is not None:
                own = torch.tensor([num_captions - 1])
                positions = chunk_positions(conditioning.target_phase, own, chunk_index, config)
            elif num_captions == 1:
                positions = type(positions)(positions.frame_index, positions.shot_phase, captions)
            write = "global" if chunk_index is None else "local"
            with FlopCounterMode(display=False) as counter:
                dit(torch.randn(shape), torch.zeros(1, 3), keys, positions, cache=cache, write=write)
            counted.append(counter.get_total_flops())
    grid = cache.token_grid
    expected = [context_cost(config, grid, 4).flops]
    expected += [chunk_cost(config, grid, chunk, 0, 4).flops for chunk in (0, 1)]
    assert counted == expected


def test_the_published_model_costs_what_was_worked_out_by_hand() -> None:
    """4680 queries of 1536 channels in 30 layers, over the keys of 9 and of 27 frames, cross-attention
    included."""
    tera = 1e12
    first, last = (chunk_cost(wan_1_3b(), WAN_GRID, chunk, 0, 2).flops / tera for chunk in (0, 6))
    attention = 4 * 4680 * 1536 * 30 / tera
    assert last - first == pytest.approx(attention * 18 * 1560)
    per_token = 2 * 30 * (6 * 1536**2 + 2 * 1536 * 8960)
    assert first == pytest.approx(4680 * per_token / tera + attention * (9 * 1560 + 512), rel=1e-3)


def test_past_the_window_a_chunk_costs_no_more() -> None:
    config = wan_1_3b()
    costs = [chunk_cost(config, WAN_GRID, chunk, 4, 2) for chunk in (5, 6, 7, 70)]
    assert costs[0].flops < costs[1].flops == costs[2].flops == costs[3].flops


def test_steps_and_commit_are_passes_of_one_cost() -> None:
    config = wan_1_3b()
    commit = chunk_cost(config, WAN_GRID, 2, 0, 2)
    assert chunk_cost(config, WAN_GRID, 2, 4, 2) == commit * 5
    assert chunk_cost(config, WAN_GRID, 2, 4, 2, with_commit=False) + commit == commit * 5


def test_the_roofline_is_the_larger_of_arithmetic_and_traffic() -> None:
    ceilings = Ceilings(flops_per_s=10.0, bytes_per_s=2.0)
    assert ceilings.least_s(Cost(100.0, 4.0)) == 10
    assert ceilings.least_s(Cost(10.0, 40.0)) == 20


def test_ceilings_are_measured_in_the_dtype_asked_for() -> None:
    ceilings = measure_ceilings(torch.device("cpu"), torch.bfloat16, size=64)
    assert ceilings.flops_per_s > 0 and ceilings.bytes_per_s > 0


def test_rows_say_what_was_reached_of_each_ceiling() -> None:
    """Four operations and ten bytes a second where eight and forty are possible: arithmetic is what binds."""
    rows = {row.key: row.value for row in roofline_rows(Cost(8.0, 20.0), 2.0, Ceilings(8.0, 40.0))}
    assert rows["of_matmul"] == rows["of_roofline"] == 0.5
    assert rows["of_copy"] == 0.25
    assert rows["reached_tflops"] == 4e-12


def test_a_shots_last_chunk_is_committed_to_nobody() -> None:
    config = wan_1_3b()
    chunks = [chunk_cost(config, WAN_GRID, chunk, 4, 2, with_commit=chunk < 2) for chunk in range(3)]
    expected = context_cost(config, WAN_GRID, 2).flops + sum(chunk.flops for chunk in chunks)
    assert shot_cost(config, WAN_GRID, 3, 4, 2).flops == expected
