"""Frames count on from the context, and start again at every shot."""

import pytest
import torch

from shotstream.model.config import wan_1_3b
from shotstream.model.positions import (
    chunk_positions,
    context_positions,
    join_positions,
    target_positions,
)
from tests.model.tiny import CONFIG, chunk, context, target


def test_chunks_are_the_frames_of_their_shot() -> None:
    whole = target(8, batch=2)
    assert whole.frame_index.tolist() == [[2, 3, 4, 5, 6, 7, 8, 9]] * 2
    parts = join_positions(*(chunk(index, batch=2) for index in range(4)))
    assert torch.equal(parts.frame_index, whole.frame_index)
    assert torch.equal(parts.shot_phase, whole.shot_phase)
    assert torch.equal(parts.caption_index, whole.caption_index)
    assert parts.chunk_index is None


def test_context_frames_come_first() -> None:
    joined = join_positions(context(), target(2))
    assert joined.frame_index.tolist() == [[0, 1, 2, 3]]
    assert joined.shot_phase.tolist() == [[0, 1, 2, 2]]


def test_phase_and_caption_are_separate() -> None:
    positions = chunk_positions(torch.tensor([1, 5]), torch.tensor([0, 3]), 1, CONFIG)
    assert positions.shot_phase.tolist() == [[1, 1], [5, 5]]
    assert positions.caption_index.tolist() == [[0, 0], [3, 3]]
    assert positions.chunk_index == 1


def test_a_chunk_before_the_first_is_refused() -> None:
    with pytest.raises(ValueError, match="first chunk is 0"):
        chunk(-1)


def test_at_real_sizes_six_frames_come_first_and_chunks_have_three() -> None:
    """In numbers, and two samples whose shots differ."""
    config = wan_1_3b()
    phase, caption = torch.tensor([3, 1]), torch.tensor([2, 0])
    frames = torch.tensor([[0, 0, 1, 1, 2, 2], [0] * 6])
    given = context_positions(frames, frames)
    assert given.frame_index.tolist() == [[0, 1, 2, 3, 4, 5]] * 2
    assert given.shot_phase.tolist() == frames.tolist()
    assert [
        chunk_positions(phase, caption, index, config).frame_index[1].tolist() for index in (0, 1, 6)
    ] == [
        [6, 7, 8],
        [9, 10, 11],
        [24, 25, 26],
    ]
    whole = target_positions(phase, caption, 21, config)
    assert whole.frame_index.tolist() == [list(range(6, 27))] * 2
    assert whole.shot_phase.tolist() == [[3] * 21, [1] * 21]
    assert whole.caption_index.tolist() == [[2] * 21, [0] * 21]
