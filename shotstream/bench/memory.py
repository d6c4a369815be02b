"""GPU memory that films need, computed from sizes on any machine; nothing is measured.

`streaming/memory_estimate.py` says how it is computed and what is not included; loading a model uses the same
numbers.
"""

import tempfile
from dataclasses import asdict
from pathlib import Path

import torch

from shotstream.bench.models import random_bundle, random_config
from shotstream.bench.report import Report, Row
from shotstream.geometry import PixelSize
from shotstream.streaming.choice import Machine, MemoryLevel, Options, Precision, choose
from shotstream.streaming.inference_options import InferenceOptions
from shotstream.streaming.memory_estimate import RESERVE_BYTES, MemoryEstimate, estimate_film_memory

CARDS_GIB = (8, 12, 16, 24, 32, 48, 80)

_PRECISIONS: tuple[Precision, ...] = ("bfloat16", "float8")
_LEVELS: tuple[MemoryLevel, ...] = ("auto", "low", "lowest")


def bench_memory(name: str, size: PixelSize | None) -> Report:
    """Returns a report of memory by precision and level; raises ValueError for an unknown model or size."""
    rows: list[Row] = []
    config = random_config(name, with_text=True)
    machine = Machine(device_type="cuda", capability=(9, 0))
    for precision in _PRECISIONS:
        for level in _LEVELS:
            # Without a limit "auto" keeps everything on the device.
            options = Options(precision=precision, memory=level)
            choice = choose(options, config["engine"]["family"], machine, lambda _dtype, _switches: 0)
            memory = pipeline_memory(name, size, choice.dtype, choice.inference_options)
            key = f"{precision}_{level}"
            label = f"--precision {precision} --memory {level}"
            rows.append(Row(f"{key}_gb", f"{label}: GB", memory.total / 1e9))
            for part, num_bytes in asdict(memory).items():
                rows.append(Row(f"{key}_{part}_gb", f"  {part.replace('_', ' ')}", num_bytes / 1e9))
            rows.append(Row(f"{key}_card_gib", "  fits in GiB (0: in none)", least_card_gib(memory) or 0))
    facts: dict[str, object] = {"model": name, "computed": True, "reserve_gb": RESERVE_BYTES / 1e9}
    if size is not None:
        facts["pixel_size"] = [size.height, size.width]
    return Report(bench="memory", facts=facts, rows=tuple(rows))


def pipeline_memory(
    name: str, size: PixelSize | None, dtype: torch.dtype, inference_options: InferenceOptions
) -> MemoryEstimate:
    """Returns the device memory for one film at a time, from a model's sizes."""
    config = random_config(name, with_text=True)
    if size is not None:
        config = {**config, "engine": {**config["engine"], "pixel_size": asdict(size)}}
    with tempfile.TemporaryDirectory() as directory:
        bundle = random_bundle(config, Path(directory), torch.device("meta"), dtype)
        return estimate_film_memory(bundle, dtype, inference_options)


def least_card_gib(memory: MemoryEstimate) -> int | None:
    """Returns the smallest of `CARDS_GIB` in which it fits; None: in none."""
    return next((card for card in CARDS_GIB if memory.total <= card * 2**30), None)
