"""A frame reads its own caption and no other."""

import torch
from torch import Tensor

from shotstream.model.cross_attention import CrossAttention, TextCache
from tests.model.tiny import CONFIG, GRID, randn, tiny_dit

NUM_FRAMES = 6
CAPTION_INDEX = torch.tensor([[0, 0, 1, 2, 2, 2]])


def _room() -> CrossAttention:
    block = tiny_dit().blocks[0]
    return block.cross_attn


def _tokens(batch: int = 1) -> Tensor:
    return randn(batch, NUM_FRAMES, GRID.num_tokens, CONFIG.dim)


def _text(num_captions: int = 3, batch: int = 1) -> Tensor:
    return randn(batch, num_captions, CONFIG.text_length, CONFIG.dim, seed=5)


@torch.no_grad()
def test_changing_the_caption_of_shot_2_changes_exactly_the_rows_of_shot_2() -> None:
    room, x, text = _room(), _tokens(), _text()
    before = room(x, room.caption_keys(text).of_frames(CAPTION_INDEX))
    text[:, 2] += 1
    after = room(x, room.caption_keys(text).of_frames(CAPTION_INDEX))
    changed = (before != after).flatten(2).any(dim=2)
    assert torch.equal(changed, CAPTION_INDEX == 2)


@torch.no_grad()
def test_every_frame_reads_the_caption_that_its_index_names() -> None:
    room, x, text = _room(), _tokens(), _text()
    together = room(x, room.caption_keys(text).of_frames(CAPTION_INDEX))
    for frame, caption in enumerate(CAPTION_INDEX[0].tolist()):
        only = room.caption_keys(text[:, caption : caption + 1])
        alone = room(x[:, frame : frame + 1], only.of_frames(CAPTION_INDEX[:, :1]))
        torch.testing.assert_close(together[:, frame : frame + 1], alone)


@torch.no_grad()
def test_one_caption_is_read_by_every_frame_whatever_its_index() -> None:
    room, x, text = _room(), _tokens(), _text(1)
    one = room(x, room.caption_keys(text).of_frames(CAPTION_INDEX))
    two = room(x, room.caption_keys(text.repeat(1, 2, 1, 1)).of_frames(CAPTION_INDEX * 0))
    torch.testing.assert_close(one, two)


@torch.no_grad()
def test_samples_of_a_batch_read_their_own_captions() -> None:
    room, x, text = _room(), _tokens(2), _text(batch=2)
    index = torch.stack([CAPTION_INDEX[0], CAPTION_INDEX[0].flip(0)])
    together = room(x, room.caption_keys(text).of_frames(index))
    for sample in range(2):
        alone = slice(sample, sample + 1)
        torch.testing.assert_close(
            together[alone], room(x[alone], room.caption_keys(text[alone]).of_frames(index[alone]))
        )


@torch.no_grad()
def test_positions_of_one_sample_serve_a_batch() -> None:
    room, x, text = _room(), _tokens(2), _text(batch=2)
    keys = room.caption_keys(text)
    assert torch.equal(
        room(x, keys.of_frames(CAPTION_INDEX)), room(x, keys.of_frames(CAPTION_INDEX.expand(2, -1)))
    )


@torch.no_grad()
def test_frames_of_one_caption_read_the_same_from_a_cache_of_it_alone() -> None:
    """A fused kernel may add in another order for one sequence than for a batch of frames."""
    room, x, text = _room(), _tokens(2), _text(batch=2)
    rows = torch.tensor([2, 0])
    cache = TextCache(("a", "b", "c"), (room.caption_keys(text),))
    gathered = room(x, cache.layers[0].of_frames(rows[:, None].expand(-1, NUM_FRAMES)))
    alone = cache.only(rows)
    assert alone.layers[0].keys.shape[1] == 1
    torch.testing.assert_close(room(x, alone.layers[0]), gathered)
    # Of one caption there is nothing to choose, and a row past it names it too.
    assert alone.only(torch.tensor([5, 5])) is alone
