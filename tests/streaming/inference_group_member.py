"""The program of one process of a test: `python -m tests.streaming.inference_group_member FILE`.

It films two stories that take turns, with cuts in mid-shot, a retake and shots past the window, and writes
all latents that later shots would look at, and all frames, to FILE.
"""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from shotstream.streaming.inference_group import InferenceGroup, init_inference_group, started_by_torchrun
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.streaming.session import StorySession
from tests.streaming.tiny import tiny_pipeline


def film(pipeline: StreamingPipeline, path: Path) -> None:
    """Writes the film."""
    frames: list[np.ndarray] = []
    fox, owl = StorySession(pipeline, "a forest night"), StorySession(pipeline, "a night", seed=9)
    for caption in ("a fox walks", "a fox sleeps"):
        cut = fox.shot(caption, num_chunks=6)
        other = owl.shot("a owl flies", num_chunks=3)
        for _ in range(5):  # one more than the window holds
            frames.append(next(cut).frames)
            frames += [chunk.frames for chunk in (next(other, None),) if chunk is not None]
        cut.close()
    frames += [chunk.frames for chunk in fox.retake(0, caption="a owl sleeps", num_chunks=2)]
    frames += [chunk.frames for chunk in fox.shot("a fox walks")]
    takes = [*fox.shots, *owl.shots]
    latents = {f"latents.{index}": take.latents.contiguous() for index, take in enumerate(takes)}
    save_file({"frames": torch.from_numpy(np.concatenate(frames)), **latents}, path)


def main() -> None:
    """Leads or follows, or films alone."""
    torch.set_num_threads(1)
    path = Path(sys.argv[1])
    if not started_by_torchrun():
        film(tiny_pipeline(num_heads=4), path)
        return
    with init_inference_group("cpu") as group:
        work(group, path)


def work(group: InferenceGroup, path: Path) -> None:
    """A process's part."""
    if group.is_leader:
        pipeline = tiny_pipeline(num_heads=4, group=group)
        # Its passes would be the leader's alone, and wait for the others.
        with pytest.raises(ValueError, match="that several processes cannot share"):
            pipeline.session("a forest night", policy="keys")
        assert set(pipeline.context_policies) == {"theatre", "published", "prompt"}
        film(pipeline, path)
    else:
        group.follow(tiny_pipeline(num_heads=4).dit)


if __name__ == "__main__":
    main()
