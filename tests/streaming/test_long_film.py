"""A hundred shots: the work per chunk is that of shot 10, and memory grows by one latent frame per shot."""

import gc
import itertools

import pytest
import torch

from shotstream.streaming.session import StorySession
from tests.streaming.tiny import tiny_pipeline

PROBED = (10, 50, 100)


def tensor_bytes() -> int:
    """Memory held by all tensors that are alive, each storage counted once.

    By exact type: what a compiler traced elsewhere in this process leaves behind (FakeTensor) has no memory.
    """
    gc.collect()
    found = (thing for thing in gc.get_objects() if type(thing) in (torch.Tensor, torch.nn.Parameter))
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in found}
    return sum(storages.values())


@pytest.mark.slow
def test_a_chunk_costs_the_same_at_every_shot_and_a_shot_leaves_one_latent_frame_behind() -> None:
    pipeline = tiny_pipeline()
    passes: list[tuple[object, ...]] = []

    def note(_module: object, args: tuple[torch.Tensor, ...], kwargs: dict[str, object]) -> None:
        text = args[2]
        rows = text.layers[0].keys.shape[1]  # pyright: ignore[reportAttributeAccessIssue]
        passes.append((tuple(args[0].shape), rows, kwargs["write"]))

    pipeline.dit.register_forward_pre_hook(note, with_kwargs=True)
    session = StorySession(pipeline, "a forest night")
    work: list[list[tuple[object, ...]]] = []
    held: list[int] = []
    for number in range(1, max(PROBED) + 1):
        passes.clear()
        for _ in session.shot("a fox walks" if number % 2 else "a owl flies"):
            pass
        if number in PROBED:
            work.append(list(passes))
            held.append(tensor_bytes())
    assert work[0] == work[1] == work[2]
    latent_bytes = session.shots[-1].latents.nbytes
    assert session.shots[-1].latents.shape[0] == 1
    growth = [later - earlier for earlier, later in itertools.pairwise(held)]
    expected = [(b - a) * latent_bytes for a, b in itertools.pairwise(PROBED)]
    assert growth == expected
    assert len(pipeline._spare_caches) == 1  # pyright: ignore[reportPrivateUsage]
