"""One rule, three forms of it, the same attention."""

from itertools import product

import pytest
import torch

from shotstream.model.attention import masked_attend
from shotstream.model.causal_mask import CausalMask, MaskForm
from tests.model.tiny import CONFIG, GRID, randn

CASES = [
    CausalMask(
        num_context_frames=context,
        num_target_frames=frames,
        chunk_latent_frames=3,
        tokens_per_frame=tokens,
        window_chunks=window,
    )
    for context, frames, tokens, window in product((0, 2), (1, 3, 8, 12), (1, 4), (None, 1, 2))
]


def test_two_context_frames_and_three_chunks() -> None:
    mask = CausalMask(num_context_frames=2, num_target_frames=6, chunk_latent_frames=2, tokens_per_frame=1)
    assert mask.dense().int().tolist() == [
        [1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 1, 1, 1],
        [1, 1, 1, 1, 1, 1, 1, 1],
    ]


def test_a_window_of_two_chunks_keeps_the_context() -> None:
    mask = CausalMask(
        num_context_frames=1,
        num_target_frames=6,
        chunk_latent_frames=2,
        tokens_per_frame=1,
        window_chunks=2,
    )
    assert mask.dense()[5:].int().tolist() == [[1, 0, 0, 1, 1, 1, 1]] * 2


def test_frames_past_the_last_whole_chunk_are_a_chunk_of_their_own() -> None:
    """In the published mask such frames are visible to everything before them."""
    mask = CausalMask(num_context_frames=1, num_target_frames=5, chunk_latent_frames=2, tokens_per_frame=1)
    assert mask.dense().int().tolist()[-3:] == [
        [1, 1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1, 1],
    ]


@pytest.mark.parametrize("mask", CASES)
def test_slices_are_the_dense_form(mask: CausalMask) -> None:
    rebuilt = torch.zeros(mask.num_tokens, mask.num_tokens, dtype=torch.bool)
    for part in mask.slices():
        for keys in part.keys:
            assert not rebuilt[part.queries, keys].any()
            rebuilt[part.queries, keys] = True
    assert torch.equal(rebuilt, mask.dense())
    assert [part.queries.start for part in mask.slices()[1:]] == [
        part.queries.stop for part in mask.slices()[:-1]
    ]


@pytest.mark.parametrize("mask", CASES[::3])
def test_the_block_mask_is_the_dense_form(mask: CausalMask) -> None:
    block_mask = mask.block_mask()
    zero = torch.zeros((), dtype=torch.long)
    query, key = torch.meshgrid(torch.arange(mask.num_tokens), torch.arange(mask.num_tokens), indexing="ij")
    assert torch.equal(block_mask.mask_mod(zero, zero, query, key), mask.dense())
    # Blocks of 128: at least the lengths must be ours, and no needed block may be left out.
    assert block_mask.shape[-2:] == (mask.num_tokens, mask.num_tokens)
    blocks = block_mask.to_dense()[0, 0].bool()
    assert (
        blocks.repeat_interleave(128, 0)
        .repeat_interleave(128, 1)[: mask.num_tokens, : mask.num_tokens][mask.dense()]
        .all()
    )


@pytest.mark.parametrize("window", [None, 2])
def test_all_forms_compute_the_same_attention(window: int | None) -> None:
    outputs = {form: _attend(form, window, torch.device("cpu")) for form in ("slices", "dense")}
    torch.testing.assert_close(outputs["slices"], outputs["dense"], rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize("window", [None, 2])
def test_the_block_form_takes_what_autocast_leaves_in_two_precisions(window: int | None) -> None:
    """Normalised queries and keys come in float32, values in bfloat16, which FlexAttention refuses."""
    with torch.autocast("cpu", torch.bfloat16):
        blocks, dense = (
            _attend(form, window, torch.device("cpu"), torch.bfloat16) for form in ("block", "dense")
        )
    assert blocks.dtype == dense.dtype
    torch.testing.assert_close(blocks, dense, rtol=0, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("window", [None, 2])
def test_the_compiled_block_form_computes_the_same_attention(window: int | None) -> None:
    device = torch.device("cuda")
    # FlexAttention's float32 kernel accumulates in TF32.
    torch.testing.assert_close(
        _attend("block", window, device), _attend("dense", window, device), rtol=0, atol=5e-3
    )


def _attend(
    form: MaskForm, window: int | None, device: torch.device, value_dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    mask = CausalMask(
        num_context_frames=2,
        num_target_frames=9,
        chunk_latent_frames=2,
        tokens_per_frame=16,
        window_chunks=window,
        form=form,
    )
    queries, keys, values = (randn(2, mask.num_tokens, 2, 32, seed=seed).to(device) for seed in range(3))
    return masked_attend(mask, device)(queries, keys, values.to(value_dtype))


def test_a_shots_mask_has_the_window_of_streaming() -> None:
    mask = CausalMask.for_shot(CONFIG, GRID, 8)
    assert (mask.window_chunks, mask.num_tokens) == (3, 10 * GRID.num_tokens)


def test_impossible_masks_are_refused() -> None:
    with pytest.raises(ValueError, match="num_target_frames"):
        CausalMask.for_shot(CONFIG, GRID, 0)
    with pytest.raises(ValueError, match="window_chunks"):
        CausalMask(
            num_context_frames=0,
            num_target_frames=1,
            chunk_latent_frames=1,
            tokens_per_frame=1,
            window_chunks=0,
        )
