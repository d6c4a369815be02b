"""Frames count on from the context, and start again at every shot."""

import pytest
import torch

from shotstream.model.positions import chunk_positions, join_positions
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
