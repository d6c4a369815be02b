"""One rule, two forms of it, the same attention."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from shotstream.model.attention import masked_attend
from shotstream.model.causal_mask import CausalMask, MaskForm
from tests import forked
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


def dense(mask: CausalMask) -> Tensor:
    """The rule as a matrix [query token, key token]."""
    groups = mask.token_groups()
    kinds = range(int(groups.max()) + 1)
    table = torch.tensor([[mask.allows(query, key) for key in kinds] for query in kinds])
    return table[groups[:, None], groups[None, :]]


def test_two_context_frames_and_three_chunks() -> None:
    mask = CausalMask(num_context_frames=2, num_target_frames=6, chunk_latent_frames=2, tokens_per_frame=1)
    assert dense(mask).int().tolist() == [
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
    assert dense(mask)[5:].int().tolist() == [[1, 0, 0, 1, 1, 1, 1]] * 2


def test_frames_past_the_last_whole_chunk_are_a_chunk_of_their_own() -> None:
    """In the published mask such frames are visible to everything before them."""
    mask = CausalMask(num_context_frames=1, num_target_frames=5, chunk_latent_frames=2, tokens_per_frame=1)
    assert dense(mask).int().tolist()[-3:] == [
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
    assert torch.equal(rebuilt, dense(mask))
    assert [part.queries.start for part in mask.slices()[1:]] == [
        part.queries.stop for part in mask.slices()[:-1]
    ]


LAYOUTS = [
    CausalMask(
        num_context_frames=context,
        num_target_frames=frames,
        chunk_latent_frames=chunk,
        tokens_per_frame=tokens,
        window_chunks=window,
    )
    for context, frames, chunk, tokens, window in [
        (0, 1, 1, 1, None),
        (2, 7, 2, 16, None),
        (6, 9, 3, 24, 2),  # chunks end inside blocks
        (6, 9, 3, 128, None),  # and on their edges
        (1, 6, 1, 128, 1),
        (0, 12, 3, 45, 2),
        (6, 21, 3, 40, 7),
        (3, 10, 4, 97, 1),
        (2, 5, 3, 100, None),  # a last chunk that is not full
    ]
]


@pytest.mark.parametrize("mask", [*CASES[::3], *LAYOUTS])
def test_the_block_mask_is_what_torch_makes_of_the_matrix(mask: CausalMask) -> None:
    ours, matrix = mask.block_mask(), dense(mask)
    theirs = create_block_mask(
        lambda _batch, _head, query, key: matrix[query, key], None, None, *matrix.shape, device="cpu"
    )
    assert ours.shape == theirs.shape and ours.BLOCK_SIZE == theirs.BLOCK_SIZE
    for kind in ("kv", "full_kv", "q", "full_q"):
        assert _pairs(ours, kind) == _pairs(theirs, kind), kind
    zero = torch.zeros((), dtype=torch.long)
    query, key = torch.meshgrid(*2 * [torch.arange(mask.num_tokens)], indexing="ij")
    assert torch.equal(ours.mask_mod(zero, zero, query, key), matrix)


def _pairs(mask: BlockMask, kind: str) -> set[tuple[int, int]]:
    """The blocks of a kind, as row and place."""
    counts, places = getattr(mask, f"{kind}_num_blocks")[0, 0], getattr(mask, f"{kind}_indices")[0, 0]
    return {(row, int(place)) for row, count in enumerate(counts) for place in places[row, :count]}


def test_a_block_mask_never_holds_a_matrix_of_tokens() -> None:
    """At 480x832 one once went through two of 42,120 by 42,120, for blocks of which few are cut."""
    mask = CausalMask(
        num_context_frames=6, num_target_frames=21, chunk_latent_frames=3, tokens_per_frame=1560
    )
    with _Largest() as largest:
        blocks = mask.block_mask()
    num_blocks = -(-mask.num_tokens // 128)
    assert largest.numel <= max(mask.num_tokens, (num_blocks + 1) ** 2)
    in_part = blocks.kv_num_blocks.sum().item()
    assert 0 < in_part < 0.02 * blocks.full_kv_num_blocks.sum().item()


class _Largest(TorchDispatchMode):
    """Elements of the largest tensor that was made."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self.numel = max(self.numel, value.numel())
        return result


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize("form", ["slices", "block"])
@pytest.mark.parametrize("window", [None, 2])
def test_both_forms_compute_attention_under_the_matrix(form: MaskForm, window: int | None) -> None:
    device = torch.device("cpu")
    ours, theirs = _attend(form, window, device), _attend(None, window, device)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize("window", [None, 2])
def test_the_block_form_takes_what_autocast_leaves_in_two_precisions(window: int | None) -> None:
    """Normalised queries and keys come in float32, values in bfloat16, which FlexAttention refuses."""
    with torch.autocast("cpu", torch.bfloat16):
        blocks, slices = (
            _attend(form, window, torch.device("cpu"), torch.bfloat16) for form in ("block", "slices")
        )
    assert blocks.dtype == slices.dtype
    torch.testing.assert_close(blocks, slices, rtol=0, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("window", [None, 2])
def test_the_compiled_block_form_computes_the_same_attention(window: int | None) -> None:
    device = torch.device("cuda")
    # FlexAttention's float32 kernel accumulates in TF32.
    torch.testing.assert_close(
        _attend("block", window, device), _attend(None, window, device), rtol=0, atol=5e-3
    )


def _attend(
    form: MaskForm | None, window: int | None, device: torch.device, value_dtype: torch.dtype = torch.float32
) -> Tensor:
    """What noise gathers; None: under the matrix."""
    mask = CausalMask(
        num_context_frames=2,
        num_target_frames=9,
        chunk_latent_frames=2,
        tokens_per_frame=16,
        window_chunks=window,
        form=form or "slices",
    )
    queries, keys, values = (randn(2, mask.num_tokens, 2, 32, seed=seed).to(device) for seed in range(3))
    if form is None:
        heads = (value.transpose(1, 2) for value in (queries, keys, values))
        out = F.scaled_dot_product_attention(*heads, attn_mask=dense(mask).to(device))
        return out.transpose(1, 2)
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


PROGRAM = """
from functools import partial
import torch
from torch._dynamo.exc import FailOnRecompileLimitHit
from torch._dynamo.utils import counters
from shotstream.model import attention
from shotstream.model.causal_mask import CausalMask

torch.compile = partial(torch.compile, backend="eager")
flex = attention._compiled_flex()

def attend(num_frames):
    mask = CausalMask(num_context_frames=2, num_target_frames=num_frames, chunk_latent_frames=2,
                      tokens_per_frame=16, form="block")
    x = torch.randn(1, 1, mask.num_tokens, 16)
    flex(x, x, x, block_mask=mask.block_mask())

for num_frames in (*range(1, 13), 3, 7):
    attend(num_frames)
assert counters["stats"]["unique_graphs"] == 12, counters
torch._dynamo.config.recompile_limit = 12
try:
    attend(13)
except FailOnRecompileLimitHit:
    print("refused")
"""


@pytest.mark.slow
def test_each_layout_is_a_graph_of_its_own_and_none_falls_back() -> None:
    """After eight, torch once went on with all scores in memory: 42,120 squared for each head."""
    done = forked.run(["-c", PROGRAM])
    assert done.returncode == 0, done.stderr
    assert done.stdout == "refused\n"


def by_frames(context: int, frames: int, chunk: int, window: int | None) -> Tensor:
    """The rule, from its sentences: frame by frame, [query, key], without groups or slices."""
    total = context + frames
    rule = torch.zeros(total, total, dtype=torch.bool)
    for query in range(total):
        for key in range(total):
            if key < context:
                rule[query, key] = True  # all see the context
            elif query >= context:  # the context sees nothing else
                back = (query - context) // chunk - (key - context) // chunk
                rule[query, key] = back >= 0 and (window is None or back < window)
    return rule


REAL = [
    (6, 21, 3, 7),
    (6, 21, 3, None),
    (6, 9, 3, 2),
    (6, 3, 3, 7),
    (6, 11, 3, 2),
    (7, 9, 3, 1),
    (1, 6, 3, 7),
]
"""Six frames of context, twice as long as a chunk of three, and neighbours: what a smaller context hides."""


@pytest.mark.parametrize(("context", "frames", "chunk", "window"), REAL)
def test_the_rule_at_real_sizes_is_that_of_its_sentences(
    context: int, frames: int, chunk: int, window: int | None
) -> None:
    """Every form. With two context frames at most in a test, the first of six could be lost from sight."""
    mask = CausalMask(
        num_context_frames=context,
        num_target_frames=frames,
        chunk_latent_frames=chunk,
        tokens_per_frame=2,
        window_chunks=window,
    )
    rule = by_frames(context, frames, chunk, window)
    rule = rule.repeat_interleave(2, dim=0).repeat_interleave(2, dim=1)
    assert torch.equal(dense(mask), rule)
    sliced = torch.zeros_like(rule)
    for part in mask.slices():
        for keys in part.keys:
            sliced[part.queries, keys] = True
    assert torch.equal(sliced, rule)
    zero = torch.zeros((), dtype=torch.long)
    query, key = torch.meshgrid(*2 * [torch.arange(mask.num_tokens)], indexing="ij")
    assert torch.equal(mask.block_mask().mask_mod(zero, zero, query, key), rule)


def test_the_model_of_480x832_has_these_groups_and_ranges() -> None:
    """Six frames of context and seven chunks of three, 1560 tokens each, in numbers."""
    mask = CausalMask(
        num_context_frames=6,
        num_target_frames=21,
        chunk_latent_frames=3,
        tokens_per_frame=1560,
        window_chunks=7,
    )
    groups = mask.token_groups()
    assert torch.unique_consecutive(groups).tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert groups.bincount().tolist() == [9360, *[4680] * 7]
    slices = mask.slices()
    assert slices[0] == (slice(0, 9360), (slice(0, 9360),))
    assert slices[3] == (slice(18_720, 23_400), (slice(0, 23_400),))
    short = CausalMask(
        num_context_frames=6,
        num_target_frames=21,
        chunk_latent_frames=3,
        tokens_per_frame=1560,
        window_chunks=2,
    )
    assert short.slices()[4] == (slice(23_400, 28_080), (slice(0, 9360), slice(18_720, 28_080)))


@pytest.mark.parametrize(("context", "frames", "chunk", "window"), REAL)
def test_blocks_at_real_sizes_are_whole_where_all_their_tokens_are_allowed(
    context: int, frames: int, chunk: int, window: int | None
) -> None:
    mask = CausalMask(
        num_context_frames=context,
        num_target_frames=frames,
        chunk_latent_frames=chunk,
        tokens_per_frame=40,
        window_chunks=window,
    )
    rule = by_frames(context, frames, chunk, window).repeat_interleave(40, 0).repeat_interleave(40, 1)
    part, whole = mask.blocks()
    num_blocks = -(-len(rule) // 128)
    assert part.shape == whole.shape == (num_blocks, num_blocks)
    for query in range(num_blocks):
        for key in range(num_blocks):
            tile = rule[128 * query : 128 * (query + 1), 128 * key : 128 * (key + 1)]
            full = bool(tile.all()) and tile.shape == (128, 128)
            assert bool(whole[query, key]) == full
            assert bool(part[query, key]) == (bool(tile.any()) and not full)
