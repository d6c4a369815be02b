"""A light decoder changes what is sent while a shot is made, and nothing that is kept."""

from pathlib import Path

import numpy as np
import pytest
import torch

from shotstream.vae.tiny_decoder import TinyDecoder
from shotstream.video.video_io import read_frames
from tests.studio.studio_harness import StudioHarness


def light_decoder() -> TinyDecoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return TinyDecoder(4, (6, 4, 4, 4)).eval().requires_grad_(False)


@pytest.mark.slow
def test_what_is_kept_is_the_codecs_and_only_what_is_sent_is_the_previews(tmp_path: Path) -> None:
    stages = [StudioHarness(tmp_path / name, preview=preview) for name, preview in _both(tmp_path)]
    for studio in stages:
        studio.run(3)  # Shot 1 is made, shot 2 has begun; the viewer is in the first chunk of shot 1.
        studio.send_ok("cut", playing={"take_id": studio.take_ids()[0], "frame_index": 3})
        studio.run()
    plain, previewed = stages
    assert [len(hashes) for hashes in plain.frame_hashes()] == [9, 21, 21]
    assert previewed.frame_hashes() == plain.frame_hashes()
    for ours, theirs in zip(previewed.take_ids(), plain.take_ids(), strict=True):
        assert ours is not None and theirs is not None
        our, their = previewed.open_story.history.takes[ours], plain.open_story.history.takes[theirs]
        memory = previewed.media.read_memory(previewed.story_id, our)
        assert torch.equal(memory.latents, plain.media.read_memory(plain.story_id, their).latents)
        kept = previewed.media.read_frames(previewed.story_id, our)
        assert np.array_equal(kept, plain.media.read_frames(plain.story_id, their))
    take_id = previewed.take_ids()[1]
    assert take_id is not None
    record = previewed.open_story.history.takes[take_id]
    assert all(media.frame_sha256 == () for media in previewed.media_of(take_id))
    sent = read_frames(previewed.media.recording_path(previewed.story_id, record)).astype(int)
    kept = previewed.media.read_frames(previewed.story_id, record).astype(int)
    # The same frames by number; far from the codec's by more than H.264 can be.
    assert sent.shape == kept.shape and np.abs(sent - kept).mean() > 20
    for studio in stages:
        studio.close()


def _both(folder: Path) -> list[tuple[str, TinyDecoder | None]]:
    for name in ("plain", "previewed"):
        (folder / name).mkdir()
    return [("plain", None), ("previewed", light_decoder())]
