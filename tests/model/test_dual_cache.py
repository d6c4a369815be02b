"""Streaming through the cache is the masked pass, and only commit passes change it."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from shotstream.geometry import TokenGrid
from shotstream.model.causal_mask import CausalMask
from shotstream.model.config import wan_1_3b
from shotstream.model.cross_attention import TextCache
from shotstream.model.dit import DiT
from shotstream.model.dual_cache import CacheSnapshot, DualCache
from shotstream.model.positions import join_positions
from tests.model.tiny import (
    CONFIG,
    GRID,
    captions,
    chunk,
    context,
    latents,
    level,
    new_cache,
    target,
    tiny_dit,
)

NUM_CHUNKS = 6
"""Twice the window, so that every slot of the cache is used again."""
CHUNK_FRAMES = CONFIG.chunk_latent_frames


def _commit_context(dit: DiT, cache: DualCache, text: Tensor | TextCache, seed: int = 0) -> Tensor:
    batch = cache.batch
    frames = latents(2, batch=batch, seed=seed)
    with torch.no_grad():
        return dit(frames, level(0.0, 2, batch), text, context(batch), cache=cache, write="global")


def _commit(dit: DiT, cache: DualCache, text: Tensor | TextCache, index: int, seed: int) -> Tensor:
    batch = cache.batch
    frames = latents(CHUNK_FRAMES, batch=batch, seed=seed)
    with torch.no_grad():
        return dit(
            frames, level(0.0, CHUNK_FRAMES, batch), text, chunk(index, batch), cache=cache, write="local"
        )


def _denoise(dit: DiT, cache: DualCache, text: Tensor | TextCache, index: int, seed: int) -> Tensor:
    batch = cache.batch
    frames = latents(CHUNK_FRAMES, batch=batch, seed=seed)
    return dit(frames, level(0.7, CHUNK_FRAMES, batch), text, chunk(index, batch), cache=cache)


def _stream(dit: DiT, cache: DualCache, text: Tensor, seed: int) -> Iterator[Tensor]:
    """Denoised chunks of one shot; the caller may do anything else between them."""
    _commit_context(dit, cache, text, seed)
    for index in range(NUM_CHUNKS):
        with torch.no_grad():
            denoised = _denoise(dit, cache, text, index, seed + index)
        yield denoised
        _commit(dit, cache, text, index, seed + 50 + index)


def _same(ours: CacheSnapshot, theirs: CacheSnapshot) -> bool:
    lengths = (ours.num_context_frames, ours.num_chunks) == (theirs.num_context_frames, theirs.num_chunks)
    pairs = zip(ours.layers, theirs.layers, strict=True)
    return lengths and all(torch.equal(a.keys, b.keys) and torch.equal(a.values, b.values) for a, b in pairs)


@pytest.mark.parametrize("window_chunks", [1, 2, 3, 7])
def test_a_cached_chunk_is_the_last_chunk_of_the_masked_full_pass(window_chunks: int) -> None:
    """Context write, then chunk passes, against one pass over everything; the window included."""
    dit = tiny_dit(window_chunks=window_chunks)
    cache, text = new_cache(dit, batch=2), captions(batch=2)
    written = _commit_context(dit, cache, text)
    clean = [latents(2, batch=2)]
    for index in range(NUM_CHUNKS):
        with torch.no_grad():
            cached = _denoise(dit, cache, text, index, seed=index)
        noisy = latents(CHUNK_FRAMES, batch=2, seed=index)
        num_frames = CHUNK_FRAMES * (index + 1)
        x = torch.cat([*clean, noisy], dim=2)
        sigma = level(0.0, x.shape[2], 2)
        sigma[:, -CHUNK_FRAMES:] = 0.7
        positions = join_positions(context(2), target(num_frames, 2))
        with torch.no_grad():
            full = dit(x, sigma, text, positions, mask=CausalMask.for_shot(dit.config, GRID, num_frames))
        torch.testing.assert_close(cached, full[:, :, -CHUNK_FRAMES:], rtol=0, atol=1e-5)
        torch.testing.assert_close(written, full[:, :, :2], rtol=0, atol=1e-5)
        committed = _commit(dit, cache, text, index, seed=50 + index)
        clean.append(latents(CHUNK_FRAMES, batch=2, seed=50 + index))
        assert committed.shape == noisy.shape


def test_a_denoise_pass_changes_nothing() -> None:
    dit, text = tiny_dit(), captions()
    cache = new_cache(dit)
    _commit_context(dit, cache, text)
    for index in range(NUM_CHUNKS):
        before = cache.snapshot()
        for grad in (False, True):
            with torch.set_grad_enabled(grad):
                first = _denoise(dit, cache, text, index, seed=7)
                _denoise(dit, cache, text, index, seed=8)
                # An earlier chunk may be denoised again too, as far as its window is kept.
                for earlier in range(0 if index <= CONFIG.window_chunks else index - 1, index):
                    _denoise(dit, cache, text, earlier, seed=9)
                again = _denoise(dit, cache, text, index, seed=7)
            assert torch.equal(first, again)
        assert _same(cache.snapshot(), before)
        _commit(dit, cache, text, index, seed=index)


@pytest.mark.parametrize("index", range(NUM_CHUNKS))
def test_a_chunk_committed_again_is_overwritten_in_place(index: int) -> None:
    """Also after the next chunk was denoised in the slot of the one that left the window."""
    dit, text = tiny_dit(), captions()
    revisited, fresh = new_cache(dit), new_cache(dit)
    for cache in (revisited, fresh):
        _commit_context(dit, cache, text)
        for before in range(index):
            _commit(dit, cache, text, before, seed=before)
    _commit(dit, revisited, text, index, seed=90)
    with torch.no_grad():
        _denoise(dit, revisited, text, index + 1, seed=91)
    # Same frames in the same cache: the pass, too, must see exactly what it saw the first time.
    assert torch.equal(_commit(dit, revisited, text, index, 92), _commit(dit, fresh, text, index, 92))
    assert _same(revisited.snapshot(), fresh.snapshot())
    with torch.no_grad():
        assert torch.equal(
            _denoise(dit, revisited, text, index + 1, 3), _denoise(dit, fresh, text, index + 1, 3)
        )


def test_committing_an_earlier_chunk_again_forgets_those_made_after_it() -> None:
    dit, text = tiny_dit(), captions()
    cache = new_cache(dit)
    _commit_context(dit, cache, text)
    for index in range(3):
        _commit(dit, cache, text, index, seed=index)
    _commit(dit, cache, text, 1, seed=60)
    assert cache.num_chunks == 2


def test_a_restored_snapshot_replays_identically() -> None:
    dit, text = tiny_dit(), captions()
    cache = new_cache(dit)
    _commit_context(dit, cache, text)
    for index in range(4):
        _commit(dit, cache, text, index, seed=index)
    with torch.no_grad():
        _denoise(dit, cache, text, 4, seed=1)
        snapshot = cache.snapshot()
        first = _denoise(dit, cache, text, 4, seed=4)
    for index in (4, 5):
        _commit(dit, cache, text, index, seed=70 + index)
    _commit_context(dit, cache, text, seed=71)
    cache.restore(snapshot)
    assert cache.num_chunks == 4
    with torch.no_grad():
        assert torch.equal(_denoise(dit, cache, text, 4, seed=4), first)
    elsewhere = new_cache(dit)
    elsewhere.restore(snapshot)
    assert _same(elsewhere.snapshot(), snapshot)


def test_two_interleaved_shots_equal_two_separate_ones() -> None:
    dit, text = tiny_dit(), captions()
    alone = [list(_stream(dit, new_cache(dit), text, seed)) for seed in (0, 10)]
    streams = [_stream(dit, new_cache(dit), text, seed) for seed in (0, 10)]
    together = list(zip(*streams, strict=True))
    for index, chunks in enumerate(together):
        for which in range(2):
            assert torch.equal(chunks[which], alone[which][index])


def test_resetting_the_shot_keeps_the_context() -> None:
    dit, text = tiny_dit(), captions()
    cache, fresh = new_cache(dit), new_cache(dit)
    for one in (cache, fresh):
        _commit_context(dit, one, text)
    for index in range(4):
        _commit(dit, cache, text, index, seed=index)
    cache.reset_local()
    assert _same(cache.snapshot(), fresh.snapshot())
    cache.reset()
    assert (cache.num_context_frames, cache.num_chunks) == (0, 0)
    assert cache.context(0).keys.shape[1] == 0


def test_a_shorter_context_leaves_no_gap() -> None:
    dit, text = tiny_dit(), captions()
    cache, frames = new_cache(dit), latents(1)
    positions = context()
    first = replace(
        positions,
        frame_index=positions.frame_index[:, 1:],
        shot_phase=positions.shot_phase[:, 1:],
        caption_index=positions.caption_index[:, 1:],
    )
    with torch.no_grad():
        dit(frames, level(0.0, 1), text, first, cache=cache, write="global")
        cached = _denoise(dit, cache, text, 0, seed=1)
        x = torch.cat([frames, latents(CHUNK_FRAMES, seed=1)], dim=2)
        sigma = level(0.7, 3)
        sigma[:, 0] = 0
        mask = replace(CausalMask.for_shot(dit.config, GRID, 2), num_context_frames=1)
        full = dit(x, sigma, text, join_positions(first, target(2)), mask=mask)
    torch.testing.assert_close(cached, full[:, :, 1:], rtol=0, atol=1e-5)


def test_the_hot_path_copies_no_cache() -> None:
    """Published passes clone every layer's cache: here a pass reads a view of the one buffer."""
    dit, text = tiny_dit(), captions()
    cache = new_cache(dit)
    pointers = [layer.keys.data_ptr() for layer in cache.layers]
    _commit_context(dit, cache, text)
    for index in range(NUM_CHUNKS):
        with torch.no_grad():
            cache_pass = cache.begin(CHUNK_FRAMES, index, None)
            own = torch.zeros(1, CHUNK_FRAMES * GRID.num_tokens, CONFIG.num_heads, CONFIG.head_dim)
            keys, values = cache_pass.join(cache.layers[0], own, own)
        assert keys.untyped_storage().data_ptr() == pointers[0]
        assert values.untyped_storage().data_ptr() == cache.layers[0].values.data_ptr()
        assert keys.shape[1] == (2 + CHUNK_FRAMES * min(index + 1, 3)) * GRID.num_tokens
        _commit(dit, cache, text, index, seed=index)
    assert [layer.keys.data_ptr() for layer in cache.layers] == pointers


def test_nothing_flows_back_through_the_cache() -> None:
    """The published cache keeps the history of its exit steps: chunk 2's loss then moves chunk 0."""
    dit, text = tiny_dit(), captions()
    cache = new_cache(dit)
    _commit_context(dit, cache, text)
    first = latents(CHUNK_FRAMES).requires_grad_()
    out = dit(first, level(0.7, 2), text, chunk(0), cache=cache)
    with torch.no_grad():
        dit(out.detach(), level(0.0, 2), text, chunk(0), cache=cache, write="local")
    second = latents(CHUNK_FRAMES, seed=1).requires_grad_()
    loss = dit(second, level(0.7, 2), text, chunk(1), cache=cache).square().mean()
    grads = torch.autograd.grad(loss, [first, second], allow_unused=True)
    assert grads[0] is None
    assert grads[1] is not None
    assert not any(x.requires_grad for layer in cache.layers for x in layer)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_graded_pass_equals_an_ungraded_one(checkpointing: bool) -> None:
    dit, text = tiny_dit(), captions()
    dit.activation_checkpointing = checkpointing
    cache = new_cache(dit)
    _commit_context(dit, cache, text)
    for index in range(NUM_CHUNKS):
        with torch.no_grad():
            expected = _denoise(dit, cache, text, index, seed=3)
        torch.testing.assert_close(_denoise(dit, cache, text, index, seed=3), expected, rtol=0, atol=1e-6)
        _commit(dit, cache, text, index, seed=index)


def _rollout_gradients(dit: DiT, text: Tensor) -> list[Tensor]:
    """One gradient-bearing pass per chunk, commits between them, one backward at the end."""
    cache = new_cache(dit)
    _commit_context(dit, cache, text)
    loss = torch.zeros(())
    for index in range(3):
        out = _denoise(dit, cache, text, index, seed=index)
        loss = loss + out.square().mean()
        with torch.no_grad():
            _denoise(dit, cache, text, index, seed=40)
        _commit(dit, cache, text, index, seed=50 + index)
    dit.zero_grad()
    loss.backward()
    return [parameter.grad.clone() for parameter in dit.parameters() if parameter.grad is not None]


def test_recomputed_passes_see_the_cache_as_it_was() -> None:
    """Lengths kept in the cache would be read again in the backward pass, when they have moved on."""
    dit, text = tiny_dit(), captions()
    kept = _rollout_gradients(dit, text)
    dit.activation_checkpointing = True
    recomputed = _rollout_gradients(dit, text)
    assert len(kept) == len(recomputed) == len(list(dit.parameters()))
    for ours, theirs in zip(kept, recomputed, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    "loss_of_keys", ["new context", "chunk again", "window moved", "shot forgotten", "restored"]
)
def test_recomputing_after_the_keys_have_gone_is_refused(loss_of_keys: str) -> None:
    dit, text = tiny_dit(), captions()
    dit.activation_checkpointing = True
    cache = new_cache(dit)
    _commit_context(dit, cache, text)
    _commit(dit, cache, text, 0, seed=0)
    snapshot = cache.snapshot()
    loss = _denoise(dit, cache, text, 1, seed=0).square().mean()
    match loss_of_keys:
        case "new context":
            _commit_context(dit, cache, text, seed=1)
        case "chunk again":
            _commit(dit, cache, text, 0, seed=1)
        case "window moved":
            for index in (1, 2, 3):
                _commit(dit, cache, text, index, seed=index)
        case "shot forgotten":
            cache.reset_local()
        case _:
            cache.restore(snapshot)
    with pytest.raises(RuntimeError, match="run backward before"):
        loss.backward()


def test_an_interrupted_commit_leaves_the_chunk_uncommitted(monkeypatch: pytest.MonkeyPatch) -> None:
    dit, text = tiny_dit(), captions()
    cache = new_cache(dit)
    _commit_context(dit, cache, text)
    _commit(dit, cache, text, 0, seed=0)

    def fail(*_args: object) -> Tensor:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(dit.blocks[2].ffn[0], "forward", fail)
        _commit(dit, cache, text, 0, seed=1)
    assert cache.num_chunks == 0


def test_passes_that_the_cache_cannot_serve_are_refused() -> None:
    dit, text = tiny_dit(), captions()
    cache = new_cache(dit)
    _commit_context(dit, cache, text)
    with pytest.raises(ValueError, match="commit those between"), torch.no_grad():
        _denoise(dit, cache, text, 1, seed=0)
    with pytest.raises(ValueError, match="no_grad"):
        dit(latents(2), level(0.0, 2), text, chunk(0), cache=cache, write="local")
    with pytest.raises(ValueError, match="chunk_positions"), torch.no_grad():
        dit(latents(2), level(0.0, 2), text, target(2), cache=cache, write="local")
    with pytest.raises(ValueError, match="context frames"), torch.no_grad():
        dit(latents(4), level(0.0, 4), text, target(4), cache=cache, write="global")
    for index in range(5):
        _commit(dit, cache, text, index, seed=index)
    with pytest.raises(ValueError, match="window of chunk 3 is gone"), torch.no_grad():
        _denoise(dit, cache, text, 3, seed=0)


def test_a_snapshot_of_another_shape_is_refused_and_changes_nothing() -> None:
    dit, text = tiny_dit(), captions()
    cache, other = new_cache(dit), DualCache(dit.config, 1, TokenGrid(1, 3))
    _commit_context(dit, cache, text)
    before = cache.snapshot()
    with pytest.raises(ValueError, match="another shape"):
        cache.restore(replace(before, layers=before.layers[:1]))
    with pytest.raises(ValueError, match="another shape"):
        other.restore(before)
    assert _same(cache.snapshot(), before)


def test_a_restored_snapshot_forgets_what_was_set_aside_for_the_shot_before_it() -> None:
    """The chunk that had just left the window was once put back over another shot's chunk."""
    dit, text = tiny_dit(), captions()
    cache, fresh = new_cache(dit), new_cache(dit)
    for one in (cache, fresh):
        _commit_context(dit, one, text)
        for index in range(4):
            _commit(dit, one, text, index, seed=index)
    snapshot = cache.snapshot()
    for index in (4, 5):
        _commit(dit, cache, text, index, seed=40 + index)
    with torch.no_grad():
        _denoise(dit, cache, text, 6, seed=1)  # sets chunk 3 of the abandoned shot aside
    version = cache.version
    cache.restore(snapshot)
    assert cache.version > version, "passes that wait to be recomputed must be told"
    assert _same(cache.snapshot(), fresh.snapshot())
    with torch.no_grad():
        for index in (4, 3, 4):
            assert torch.equal(
                _denoise(dit, cache, text, index, seed=2), _denoise(dit, fresh, text, index, seed=2)
            )
    assert _same(cache.snapshot(), fresh.snapshot())


@pytest.mark.parametrize("index", range(1, NUM_CHUNKS + 1))
def test_a_chunk_made_again_sees_the_window_it_had_the_first_time(index: int) -> None:
    """Past the window the next chunk's keys lie where the oldest chunk's were, which it needs again."""
    dit, text = tiny_dit(), captions()
    cache = new_cache(dit)
    _commit_context(dit, cache, text)
    for before in range(index - 1):
        _commit(dit, cache, text, before, seed=before)
    with torch.no_grad():
        first = _denoise(dit, cache, text, index - 1, seed=5)
    _commit(dit, cache, text, index - 1, seed=index - 1)
    for _ in range(2):
        with torch.no_grad():
            _denoise(dit, cache, text, index, seed=6)
            again = _denoise(dit, cache, text, index - 1, seed=5)
        torch.testing.assert_close(first, again, rtol=0, atol=1e-5)  # keys in another order


def test_the_cache_of_480x832_in_numbers() -> None:
    """Six frames of context and a window of seven chunks of three, 1560 tokens each; nothing is allocated."""
    cache = DualCache(wan_1_3b(), 1, TokenGrid(30, 52), device="meta")
    assert cache.layers[0].keys.shape == (1, 42_120, 12, 128)
    with torch.no_grad():
        given = cache.begin(6, None, "global")
        assert (given.own, given.whole, given.others) == (slice(0, 9360), slice(0, 9360), ())
        cache.finish(given)
        for index in range(9):
            start = 9360 + 4680 * (index % 7)
            asked = cache.begin(3, index, None)
            assert asked.own == slice(start, start + 4680)
            end = 9360 + 4680 * min(index + 1, 7)
            assert asked.whole == slice(0, end)
            read = (slice(0, start), slice(start + 4680, end))
            assert asked.others == tuple(part for part in read if part.start < part.stop)
            cache.finish(asked)
            assert cache.num_chunks == index, "a question leaves no trace"
            cache.finish(cache.begin(3, index, "local"))
    learnt = cache.begin(3, 9, None)
    assert learnt.own is None
    assert learnt.others == (slice(0, 18_720), slice(23_400, 42_120)), "the oldest chunk's place is left out"
    cache.reset_local()
    with torch.no_grad():
        short = cache.begin(4, None, "global")
        assert short.own == slice(3120, 9360), "a shorter context ends where the shot begins"
        cache.finish(short)
        assert cache.begin(3, 0, None).whole == slice(3120, 14_040)


def test_a_cache_is_as_wide_and_as_precise_as_it_is_asked_to_be() -> None:
    for changes, heads, dtype in (
        ({}, CONFIG.num_heads, torch.float32),
        ({"num_heads": 1, "dtype": torch.bfloat16}, 1, torch.bfloat16),
    ):
        cache = DualCache(CONFIG, 2, GRID, **changes)
        for keys, values in cache.layers:
            assert keys.shape == values.shape and keys.dtype == values.dtype == dtype
            assert keys.shape[0] == 2 and keys.shape[2] == heads
