"""Engines of `shotstream bench all`: one model's weights, run in any variant.

Weights are created or read once; engines share them, except for variants that store them in another format.
Only one engine exists at a time, so that each benchmark's peak memory is its own.
"""

import gc
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shotstream.bench.models import parse_size, random_bundle, random_config
from shotstream.bench.report import synchronize
from shotstream.bench.suite import SUITE, Benchmark, SuiteConfig
from shotstream.streaming.choice import Choice, Options
from shotstream.streaming.chunk_prefetcher import ChunkPrefetcher
from shotstream.streaming.inference_options import InferenceOptions
from shotstream.streaming.loading import assemble_pipeline, choose_for
from shotstream.streaming.parts import choose_device
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.weights.bundle import Bundle, read_bundle
from shotstream.weights.hub import resolve

_COMFORTABLE_HEIGHT_PX = 384


class Models:
    """The engines of a suite; see the module.

    Args:
        suite: Model, device and numbers of repetitions.
        started_s: Start of the process, in `time.time`.

    Raises:
        ValueError: There is no such model or device, or its strides do not divide the size.
    """

    def __init__(self, suite: SuiteConfig, started_s: float) -> None:
        self.suite, self.started_s = suite, started_s
        self.device = choose_device(suite.device)
        if suite.is_tiny:
            # The same code without compilation, which takes minutes per variant on a busy CPU.
            torch.compiler.set_stance("force_eager")
        self._directory = tempfile.TemporaryDirectory()
        bundle = None if suite.is_random else read_bundle(resolve(suite.model))
        config = random_config(suite.model, with_text=True) if bundle is None else bundle.config
        if suite.size is not None:
            size = asdict(parse_size(suite.size))
            config = {**config, "engine": {**config["engine"], "pixel_size": size}}
        self.is_wan = config["engine"]["family"] == "wan"
        # The choice reads only sizes, while all of the device's memory is still free.
        meta = torch.device("meta")
        sizes = bundle or random_bundle(config, Path(self._directory.name), meta, torch.float32)
        self._choices = {
            tuple(benchmark.options.items()): _choose(replace(sizes, config=config), self.device, benchmark)
            for benchmark in SUITE
        }
        self.dtype = self.choice(SUITE[0]).dtype
        if bundle is None:
            bundle = random_bundle(config, Path(self._directory.name), self.device, self.dtype)
        self._bundle = replace(bundle, config=config)
        self._switches: InferenceOptions | None = None
        self._pipeline: StreamingPipeline | None = None
        self.references: dict[str, Any] = {}
        """Results of the plain variants, to compare the others with."""
        synchronize(self.device)
        self.load_s = time.time() - started_s

    @property
    def device_name(self) -> str:
        """Name of the GPU, or cpu."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"

    @property
    def num_threads(self) -> int:
        """Number of threads that torch computes with on the CPU."""
        return torch.get_num_threads()

    @property
    def scale(self) -> int:
        """Factor by which frames are enlarged before H.264."""
        height = self._bundle.config["engine"]["pixel_size"]["height"]
        return self.suite.scale or max(1, _COMFORTABLE_HEIGHT_PX // height)

    def has(self, benchmark: Benchmark) -> bool:
        """Returns whether the benchmark can be run with this model on this machine."""
        here = {"gpu": self.device.type == "cuda", "wan": self.is_wan}
        return all(here[need] for need in benchmark.needs)

    def inference_options(self, benchmark: Benchmark) -> InferenceOptions:
        """Returns the inference options of a benchmark's engine."""
        start = InferenceOptions() if benchmark.start == "plain" else self.choice(benchmark).inference_options
        return replace(start, **benchmark.inference_options)

    def choice(self, benchmark: Benchmark) -> Choice:
        """Returns the engine's choice on this machine; raises ValueError if the options are impossible."""
        chosen = self._choices[tuple(benchmark.options.items())]
        if isinstance(chosen, ValueError):
            raise chosen
        return chosen

    def pipeline(self, benchmark: Benchmark, *, waits: bool = False) -> StreamingPipeline:
        """Returns a benchmark's pipeline, the previous one if it is the same.

        Args:
            benchmark: The benchmark.
            waits: Whether the parts of a chunk are timed separately, without overlap and with
                synchronisation.
        """
        inference_options = self.inference_options(benchmark)
        in_turn = replace(inference_options, overlap_chunks=False)
        if self._pipeline is None or in_turn != self._switches:
            self.forget()
            choice = Choice(dtype=self.dtype, inference_options=in_turn)
            self._pipeline, self._switches = assemble_pipeline(self._bundle, self.device, choice), in_turn
        pipeline = self._pipeline
        pipeline.synchronize = waits
        # The order of an engine's work can change without another compilation.
        if waits or not inference_options.overlap_chunks:
            pipeline.prefetcher = None
        elif pipeline.prefetcher is None:
            pipeline.prefetcher = ChunkPrefetcher(pipeline.device, pipeline.codec_device)
        return self._pipeline

    def forget(self) -> None:
        """Frees the last engine, including its compiled code."""
        self._pipeline = self._switches = None
        torch.backends.cudnn.benchmark = False
        gc.collect()
        torch.compiler.reset()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def start_measuring(self) -> None:
        """Resets the peaks of memory."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def peaks(self) -> Mapping[str, float]:
        """Returns the peak memory of each GPU since then."""
        if self.device.type != "cuda":
            return {}
        return {"peak_gb": torch.cuda.max_memory_allocated(self.device) / 1e9}

    def recover(self) -> bool:
        """Returns whether the device can still be used after an error."""
        try:
            self.forget()
            torch.ones(8, device=self.device).sum().item()
        except Exception:
            return False
        return True

    def wait(self) -> None:
        """Waits for all queued work of the device."""
        synchronize(self.device)

    def seconds(self, work: Any, num_repeats: int, warm: int = 2) -> list[float]:
        """Returns the seconds of each repetition, between two synchronisations."""
        taken: list[float] = []
        for repeat in range(-warm, num_repeats):
            self.wait()
            start_s = time.perf_counter()
            work()
            self.wait()
            if repeat >= 0:
                taken.append(time.perf_counter() - start_s)
        return taken

    def compare(self, name: str, made: Tensor) -> dict[str, float]:
        """Returns the relative distance of a result from the first one's."""
        first = self.references.setdefault(name, made.float().cpu())
        return {"off_by": ((made.float().cpu() - first).norm() / first.norm()).item()}


def _choose(sizes: Bundle, device: torch.device, benchmark: Benchmark) -> Choice | ValueError:
    try:
        return choose_for(sizes, device, Options(**benchmark.options))  # pyright: ignore[reportArgumentType]
    except ValueError as error:
        return error


def num_cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
