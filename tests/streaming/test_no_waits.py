"""No shot waits for the device: nothing asks it for a number, and what crosses to it is pinned and queued.

A device without contents ("meta") stands for the GPU. On a GPU torch itself watches.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

from shotstream import transfer
from shotstream.streaming import context_encoder as context_encoder_module
from shotstream.streaming import pipeline as pipeline_module
from shotstream.streaming.choice import Expert
from shotstream.streaming.loading import load
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.streaming.session import StorySession
from shotstream.weights.students import STUDENTS
from tests.streaming.tiny import tiny_pipeline

STEPS = 4


class Waits(TorchDispatchMode):
    """Notes what a program on a GPU would wait for: numbers, truths, shapes that depend on data, and copies
    to another device that are not queued from pinned memory. Counts those that are."""

    NUMBERS = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal", "masked_select", "unique")

    def __init__(self, pinned: list[Tensor] | None = None) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.num_queued = 0
        self._pinned = [] if pinned is None else pinned
        self._makes = _Makes(self.seen)

    def __enter__(self) -> "Waits":
        self._makes.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._makes.__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # pyright: ignore
        name = func.overloadpacket.__name__
        kwargs = kwargs or {}
        if any(name.startswith(wait) for wait in self.NUMBERS):
            self.seen.append(name)
        elif name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        ):
            self.seen.append(f"{name} by truths")
        given = [x for x in _pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if name == "_to_copy":
            self._cross(args[0], torch.device(kwargs.get("device") or args[0].device), kwargs)
        elif name == "copy_":
            queued = {"non_blocking": args[2] if len(args) > 2 else kwargs.get("non_blocking", False)}
            self._cross(args[1], args[0].device, queued)
        elif len({x.device for x in given if x.dim()}) > 1:
            self.seen.append(f"{name} over two devices")
        return func(*args, **kwargs)

    def _cross(self, source: Tensor, target: torch.device, kwargs: dict[str, Any]) -> None:
        if source.device.type == target.type:
            return
        if not kwargs.get("non_blocking"):
            self.seen.append(f"copy to {target.type} that waits")
        elif not any(source is tensor for tensor in self._pinned):
            self.seen.append(f"copy to {target.type} from pageable memory")
        else:
            self.num_queued += 1


class _Makes(TorchFunctionMode):
    """Numbers of the program made into a tensor elsewhere: a copy that no operation shows."""

    def __init__(self, seen: list[str]) -> None:
        super().__init__()
        self._seen = seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if (
            func in (torch.tensor, torch.as_tensor)
            and torch.device(kwargs.get("device") or "cpu").type != "cpu"
        ):
            self._seen.append("tensor of numbers elsewhere")
        return func(*args, **kwargs)


def test_the_mode_sees_what_a_program_waits_for() -> None:
    kept = torch.ones(3)
    with Waits([kept]) as waits:
        torch.ones(1).item()
        bool(torch.ones(1) > 0)
        torch.arange(3)[torch.tensor([True, False, True])]
        torch.ones(3).to("meta")
        torch.ones(3).to("meta", non_blocking=True)
        torch.zeros(3, device="meta").copy_(kept)
        torch.zeros(3, device="meta")[torch.tensor([1, 2])]
        torch.tensor([1.0], device="meta")
        kept.to("meta", non_blocking=True)
        torch.zeros(3, device="meta").copy_(kept, non_blocking=True)
    assert waits.seen == [
        "_local_scalar_dense",
        "_local_scalar_dense",
        "index by truths",
        "copy to meta that waits",
        "copy to meta from pageable memory",
        "copy to meta that waits",
        "index over two devices",
        "tensor of numbers elsewhere",
    ]
    assert waits.num_queued == 2


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What was pinned, on a machine that pins nothing; what is fetched are zeros."""
    seen: list[Tensor] = []

    def pin(tensor: Tensor) -> Tensor:
        seen.append(tensor.clone())
        return seen[-1]

    def fetch(tensor: Tensor) -> Tensor:
        return torch.zeros(tensor.shape, dtype=tensor.dtype)

    monkeypatch.setattr(transfer, "pinned", pin)
    for module in (pipeline_module, context_encoder_module):
        monkeypatch.setattr(module, "fetch", fetch)
    return seen


def elsewhere(**changes: Any) -> StreamingPipeline:
    """The transformer and the codec on a device of their own, the text encoder in main memory."""
    here = tiny_pipeline(**changes)
    assert isinstance(here.codec, torch.nn.Module)
    dit, codec = here.dit.to("meta"), here.codec.to("meta")
    return StreamingPipeline(here.config, dit, codec, here.text_encoder, choice=here.choice)


@pytest.mark.slow
def test_no_shot_waits_for_the_device_and_a_later_chunk_brings_it_nothing_but_noise(
    pinned: list[Tensor],
) -> None:
    """From captions and context to a chunk past the window, commits, noise, decoding and what is kept."""
    pipeline = elsewhere()
    num_chunks = pipeline.dit.config.window_chunks + 2
    session = StorySession(pipeline, "a forest night")
    for caption in ("a fox walks", "a owl flies", "a fox sleeps"):
        shot = session.shot(caption, num_chunks=num_chunks, steps=STEPS)
        queued: list[int] = []
        for _ in range(num_chunks):
            with Waits(pinned) as waits:
                next(shot)
            assert waits.seen == []
            queued.append(waits.num_queued)
        with Waits(pinned) as waits:
            assert next(shot, None) is None
        assert waits.seen == []
        # Captions, context and its positions once; then what is drawn for each step.
        assert queued[0] <= STEPS + 8
        assert set(queued[1:]) == {STEPS}


@pytest.mark.slow
def test_a_cut_waits_for_nothing_either(pinned: list[Tensor]) -> None:
    pipeline = elsewhere(num_context_frames=6)
    session = StorySession(pipeline, "a forest night")
    with Waits(pinned) as waits:
        shot = session.shot("a fox walks", num_chunks=4, steps=1)
        next(shot)
        next(shot)
        following = session.shot("a owl flies", steps=1)
        next(following)
        following.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert waits.seen == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["memflow", "reward-forcing", "rolling-forcing"])
def test_a_shot_of_a_student_waits_for_nothing_past_its_window_either(
    pinned: list[Tensor], name: str
) -> None:
    session = StorySession(elsewhere(rules=STUDENTS[name].rules), "a forest night")
    shot = session.shot("a fox walks", num_chunks=12)
    for _ in range(12):
        with Waits(pinned) as waits:
            next(shot)
        assert waits.seen == []


def theatre() -> StreamingPipeline:
    return load("theatre", "cuda", expert=Expert(overlap=True))


def wan() -> StreamingPipeline:
    from shotstream.bench.models import WAN_TINY, BenchModel, load_bench_model
    from shotstream.geometry import PixelSize
    from shotstream.streaming.choice import Options

    options = Options(expert=Expert(compile=False, overlap=True))
    size = PixelSize(64, 96)
    pipeline = load_bench_model(
        BenchModel(name=WAN_TINY, is_random=True, size=size, device="cuda", options=options)
    )
    pipeline.synchronize = False
    return pipeline


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("make", [theatre, wan])
def test_torch_sees_no_wait_in_a_shot_on_a_gpu(make: Callable[[], StreamingPipeline]) -> None:
    """The one wait that is wanted, for the frames, is for an event and none of those that torch complains of.

    Captions are known: how their encoder, a library's, goes about it is not looked at.
    """
    pipeline = make()
    captions = ("a red fox walks", "the red fox sleeps")

    def film() -> int:
        session = pipeline.session("a meadow. It is day.", seed=1)
        return sum(len(chunk.frames) for caption in captions for chunk in session.shot(caption, num_chunks=2))

    num_frames = film()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert film() == num_frames
    finally:
        torch.cuda.set_sync_debug_mode("default")
