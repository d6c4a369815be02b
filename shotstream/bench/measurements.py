"""The measurements of `shotstream bench all`: each yields values as they become known.

Every result has its number of repetitions. Timings include the device's last work. Frames per second are
measured from captions to the encoded film; where something is left out the name of the value says so.
"""

import importlib
import platform
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, replace
from functools import partial
from statistics import median
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from shotstream.bench.baseline import bench_baseline
from shotstream.bench.budget import Budget
from shotstream.bench.codec import bench_decode, bench_encode
from shotstream.bench.cut import Cuts
from shotstream.bench.denoise import PartConfig, later_shot, timed_shot
from shotstream.bench.generate import PARTS, BenchConfig, FilmRun, bench_story, smooth_pictures
from shotstream.bench.light import LightSession, random_light_decoder
from shotstream.bench.power import PowerMeter
from shotstream.bench.published_loop import forget_captions
from shotstream.bench.report import machine_facts
from shotstream.bench.results import error_text
from shotstream.bench.roofline import measure_ceilings, product_ceilings, shot_cost
from shotstream.bench.shots import bench_shots
from shotstream.bench.suite import Benchmark
from shotstream.bench.variants import Models, num_cores
from shotstream.model.attention import AttentionName, attend_all, attention_kernel
from shotstream.model.eight_bit_attention import EightBitKeysValues, check_eight_bits
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.streaming.warm_up import warm_up
from shotstream.video.video_io import FragmentWriter, H264Settings

Values = Generator[dict[str, Any]]

_OPTIONAL = ("av", "diffusers", "ftfy", "transformers", "triton")


def measure(models: Models, benchmark: Benchmark, budget: Budget) -> Values:
    """Yields the values of one result, as they become known; the caller may stop between any two."""
    return _MEASUREMENTS[benchmark.name](models, benchmark, budget)


def _generate(models: Models, benchmark: Benchmark, budget: Budget) -> Values:
    """Yields values of complete films, with H.264 beside the engine; compilation and warm-up are separate."""
    yield {"load_s": models.load_s}
    built = Budget()
    pipeline = models.pipeline(benchmark)
    yield {"build_s": built.spent_s}
    compiling = Budget()
    inference_options = models.inference_options(benchmark)
    if inference_options.needs_warm_up:
        warm_up(pipeline, models.suite.num_chunks)
    yield {"inference_options": asdict(inference_options), "compile_s": compiling.spent_s}
    config = _film_config(models, benchmark)
    warming = Budget()
    light = random_light_decoder(pipeline) if benchmark.is_light else None
    FilmRun(pipeline, replace(config, num_chunks=2), light=light).film(bench_story(2, 900_001))
    yield {"warm_up_s": compiling.spent_s, "first_film_s": warming.spent_s}
    run = FilmRun(pipeline, config, budget, light)
    filming = Budget()
    with PowerMeter(models.device) as meter:
        for story in range(models.suite.num_stories):
            forget_captions(pipeline.text_encoder)
            run.film(bench_story(config.num_shots, story))
            wall_s = filming.spent_s
            yield {
                "fps": run.num_frames / wall_s,
                "real_time_factor": run.num_frames / wall_s / pipeline.fps,
                "h264": "beside" if config.with_h264 else "left out: PyAV is missing",
                "cut_s": median(run.cuts_s) if run.cuts_s else None,
                "first_frame_s": median(run.first_frames_s),
                "interval_ms": _spread(run.intervals_s, 1e3),
                "num_frames": run.num_frames,
                "num_stories": story + 1,
                "num_steps": benchmark.num_steps or pipeline.num_steps,
                "wall_s": wall_s,
            }
    yield {f"power_{kind}_w": watts for kind, watts in meter.watts.items()}


def _machine(models: Models, benchmark: Benchmark, budget: Budget) -> Values:
    del benchmark, budget
    yield {
        **machine_facts(models.device),
        "device": models.device_name,
        "cores": num_cores(),
        "python": platform.python_version(),
        "missing": [name for name in _OPTIONAL if not _is_there(name)],
        "model": models.suite.model,
        "dtype": str(models.dtype).removeprefix("torch."),
        "is_random": models.suite.is_random,
        "size": models.suite.size,
    }
    if models.device.type == "cuda":
        free, total = torch.cuda.mem_get_info(models.device)
        yield {
            "cudnn": torch.backends.cudnn.version(),
            "capability": list(torch.cuda.get_device_capability(models.device)),
            "memory_gb": total / 1e9,
            "free_gb": free / 1e9,
        }


def _baseline(models: Models, benchmark: Benchmark, budget: Budget) -> Values:
    """Yields values of the engine and the published loop, with the same captions in turn."""
    pipeline = models.pipeline(benchmark)
    yield {}
    config = replace(_film_config(models, benchmark), num_stories=models.suite.num_stories)
    report = bench_baseline(pipeline, config, is_over=lambda: budget.is_over, warm_up_chunks=2)
    yield {
        **{row.key: report.value(row.key) for row in report.rows},
        "num_stories": len(_samples(report.rows[0].value)),
        "num_shots": config.num_shots,
    }


def _latency(models: Models, benchmark: Benchmark, budget: Budget) -> Values:
    """Yields p50, p95 and p99 from a caption to its pixels, engine idle and busy, and between chunks."""
    del budget
    pipeline = models.pipeline(benchmark)
    part = PartConfig(num_shots=models.suite.num_cuts, num_chunks=models.suite.num_chunks)
    light = random_light_decoder(pipeline) if benchmark.is_light else None
    cuts = Cuts(pipeline, part, scale=models.scale if _is_there("av") else None, light=light)
    for _ in cuts.make():
        values: dict[str, Any] = {"num_cuts": len(cuts.to_frames_s["idle"])}
        for kind in ("idle", "busy"):
            values[f"{kind}_s"] = _spread(cuts.to_frames_s[kind])
            if _is_there("av"):
                values[f"{kind}_h264_s"] = _spread(cuts.to_fragment_s[kind])
        yield values
    intervals_s: list[float] = []
    words = "a fox in the forest"
    session = pipeline.session(words, quiet=True) if light is None else LightSession(pipeline, light, words)
    while len(intervals_s) < models.suite.num_cuts:
        chunk = Budget()
        for made in session.shot(f"it walks on {len(intervals_s)}", num_chunks=models.suite.num_chunks):
            if made.chunk_index:
                intervals_s.append(chunk.spent_s)
            chunk = Budget()
        yield {"interval_ms": _spread(intervals_s, 1e3), "num_intervals": len(intervals_s)}


def _h264(models: Models, benchmark: Benchmark, budget: Budget) -> Values:
    """Yields values of a shot in three ways, and of encoding alone, with the shot's or smooth frames."""
    pipeline = models.pipeline(benchmark)
    config = replace(_film_config(models, benchmark), num_shots=1)
    _film(pipeline, replace(config, num_chunks=2, with_h264=False))
    ways: dict[str, dict[str, Any]] = {
        "none": {"with_h264": False},
        "beside": {"overlap": True},
        "inline": {"overlap": False},
        "smooth_beside": {"overlap": True, "pictures": "smooth"},
        "smooth_inline": {"overlap": False, "pictures": "smooth"},
    }
    (chunk,) = pipeline.session("a fox", quiet=True).shot("it walks", num_chunks=1, steps=1)
    pictures = {"decoded": chunk.frames, "smooth": smooth_pictures(len(chunk.frames), pipeline.pixel_size)}
    if not _is_there("av"):
        yield {"none_fps": _film(pipeline, replace(config, **ways["none"]), budget)}
        importlib.import_module("av")
    for name, frames in pictures.items():
        writer = FragmentWriter(pipeline.fps, H264Settings(scale=models.scale))
        taken = models.seconds(partial(writer.write, frames), models.suite.num_repeats)
        yield {
            f"{name}_ms": 1e3 * median(taken) / len(frames),
            f"{name}_kb_per_frame": len(writer.write(frames)[1]) / len(frames) / 1e3,
            "num_encodings": len(taken),
        }
    for name, change in ways.items():
        yield {f"{name}_fps": _film(pipeline, replace(config, **change), budget), "num_stories": 1}


def _parts(models: Models, benchmark: Benchmark, budget: Budget) -> Values:
    """Yields the time of each part of a frame, with synchronisation; H.264 inline."""
    pipeline = models.pipeline(benchmark, waits=True)
    config = replace(_film_config(models, benchmark), overlap=False)
    _film(pipeline, replace(config, num_shots=1, num_chunks=2))
    run = FilmRun(pipeline, config, budget)
    filming = Budget()
    run.film(bench_story(config.num_shots, 0))
    yield {
        **{f"{part}_ms": 1e3 * run.parts_s[part] / run.num_frames for part in PARTS},
        "explained": sum(run.parts_s.values()) / filming.spent_s,
        "num_frames": run.num_frames,
    }


def _denoise(models: Models, benchmark: Benchmark, budget: Budget) -> Values:
    """Yields the time of a pass in each chunk of a shot after three others, and its share of the limits."""
    del budget
    pipeline = models.pipeline(benchmark, waits=True)
    num_chunks = models.suite.num_chunks or pipeline.config.num_chunks
    num_steps = benchmark.num_steps or len(pipeline.config.student_steps)
    conditioning, text = later_shot(pipeline)
    warming = Budget()
    timed_shot(pipeline, conditioning, text, num_chunks, num_steps)
    yield {"warm_up_s": warming.spent_s}
    grid = pipeline.codec.geometry.token_grid(pipeline.latent_size)
    cost = shot_cost(pipeline.dit.config, grid, num_chunks, num_steps, pipeline.dtype.itemsize)
    ceilings = measure_ceilings(pipeline.device, pipeline.dtype, size=256 if models.suite.is_tiny else None)
    shots: list[list[dict[str, float]]] = []
    for _ in range(2):
        parts, latents = timed_shot(pipeline, conditioning, text, num_chunks, num_steps)
        shots.append(parts)
        passes_ms = [
            1e3 * min(shot[chunk]["denoise"] for shot in shots) / num_steps for chunk in range(num_chunks)
        ]
        shot_s = min(sum(sum(part.values()) for part in shot) for shot in shots)
        yield {
            "pass_ms": sum(passes_ms) / num_chunks,
            "chunk_pass_ms": [passes_ms[0], passes_ms[-1]],
            "context_ms": 1e3 * min(shot[0]["context"] for shot in shots),
            "commit_ms": 1e3 * median([part["commit"] for shot in shots for part in shot[1:]] or [0.0]),
            "shot_s": shot_s,
            "fps_alone": pipeline.codec.geometry.shot_num_frames(num_chunks) / shot_s,
            "tflops": cost.flops / shot_s / 1e12,
            "of_matmul": cost.flops / shot_s / ceilings.flops_per_s,
            "of_roofline": ceilings.least_s(cost) / shot_s,
            "num_shots": len(shots),
            "num_steps": num_steps,
            **models.compare("denoise", latents),
        }


def _decode(models: Models, benchmark: Benchmark, budget: Budget) -> Values:
    del budget
    pipeline = models.pipeline(benchmark, waits=True)
    part = PartConfig(num_shots=2, num_chunks=min(4, models.suite.num_chunks or 4))
    report = bench_decode(pipeline, part)
    yield {
        **{key: report.value(key) for key in ("chunk_ms", "first_chunk_ms", "decode_fps", "warm_up_s")},
        "num_chunks": part.num_shots * ((part.num_chunks or 1) - 1),
    }
    latents = torch.randn(2, 1, *pipeline.chunk_shape, generator=torch.Generator().manual_seed(1))
    first, state = pipeline.decode(latents[0].to(pipeline.device), None)
    second, _ = pipeline.decode(latents[1].to(pipeline.device), state)
    made = np.concatenate([first, second]).astype(np.int16)
    plain = models.references.setdefault("decode", made)
    yield {"levels_off": float(np.abs(made - plain).mean())}


def _encode(models: Models, benchmark: Benchmark, budget: Budget) -> Values:
    del budget
    pipeline = models.pipeline(benchmark, waits=True)
    report = bench_encode(
        pipeline, PartConfig(num_shots=models.suite.num_repeats, num_chunks=models.suite.num_chunks)
    )
    yield {
        **{row.key: report.value(row.key) for row in report.rows if "peak" not in row.key},
        "num_repeats": models.suite.num_repeats,
    }


def _shots(models: Models, benchmark: Benchmark, budget: Budget) -> Values:
    """Yields a later chunk's time at the first shot and at later ones up to the hundredth."""
    pipeline = models.pipeline(benchmark, waits=True)
    last = models.suite.last_shot
    probed = tuple(number for number in (1, 10, 50, 100) if number <= last)
    config = PartConfig(num_shots=1, num_chunks=models.suite.num_chunks)
    report = bench_shots(
        pipeline,
        config,
        probed=probed,
        between_steps=1,
        with_long_shot=False,
        is_over=lambda: budget.is_over,
    )
    values = {row.key: report.value(row.key) for row in report.rows}
    chunks = {str(number): values[key] for number in probed if (key := f"shot_{number}_chunk_ms") in values}
    yield {
        "chunk_ms": chunks,
        "last_by_first": chunks[str(probed[len(chunks) - 1])] / chunks[str(probed[0])],
        **{key: value for key, value in values.items() if key not in chunks},
    }


def _ceilings(models: Models, benchmark: Benchmark, budget: Budget) -> Values:
    del benchmark, budget
    for name, value in product_ceilings(models.device, size=256 if models.suite.is_tiny else None).items():
        yield {f"{name}_tflops" if isinstance(value, float) else f"{name}_error": value}
    ceilings = measure_ceilings(models.device, models.dtype, size=256 if models.suite.is_tiny else None)
    yield {"copy_gbyte_per_s": ceilings.bytes_per_s / 1e9}


def _attention(models: Models, benchmark: Benchmark, budget: Budget) -> Values:
    """Yields the time of every available kernel, over the keys of a shot's first, middle and last chunk."""
    del budget
    pipeline = models.pipeline(benchmark)
    config, grid = pipeline.dit.config, pipeline.codec.geometry.token_grid(pipeline.latent_size)
    tokens = grid.num_tokens * config.chunk_latent_frames
    heads = config.num_heads
    names = (*get_args(AttentionName), "flash")
    tflops: dict[str, list[float]] = {}
    off_by: dict[str, float] = {}
    failed: dict[str, str] = {}
    for seen in (3, 6, 9):
        shapes = (
            (1, length, heads, config.dim // heads) for length in (tokens, seen * tokens, seen * tokens)
        )
        generator = torch.Generator(models.device).manual_seed(seen)
        q, k, v = (
            torch.randn(shape, generator=generator, device=models.device, dtype=models.dtype)
            for shape in shapes
        )
        expected = attend_all(q, k, v).float()
        for name in [name for name in names if name not in failed]:
            try:
                kernel = _attending(name, k, v)
                made = kernel(q).float()
                taken = models.seconds(partial(kernel, q), 5)
            except (ValueError, RuntimeError, ImportError) as error:
                failed[name] = error_text(error)
                continue
            tflops.setdefault(name, []).append(4e-12 * tokens * seen * tokens * config.dim / median(taken))
            off_by[name] = ((made - expected).norm() / expected.norm()).item()
        yield {"tflops": dict(tflops), "off_by": dict(off_by), "failed": dict(failed), "num_repeats": 5}


_MEASUREMENTS: dict[str, Callable[[Models, Benchmark, Budget], Values]] = {
    "generate": _generate,
    "machine": _machine,
    "baseline": _baseline,
    "latency": _latency,
    "h264": _h264,
    "parts": _parts,
    "denoise": _denoise,
    "decode": _decode,
    "encode": _encode,
    "shots": _shots,
    "ceilings": _ceilings,
    "attention": _attention,
}


def _film_config(models: Models, benchmark: Benchmark) -> BenchConfig:
    return BenchConfig(
        num_stories=1,
        num_shots=models.suite.num_shots,
        num_chunks=models.suite.num_chunks,
        num_steps=benchmark.num_steps,
        scale=models.scale,
        overlap=True,
        with_h264=_is_there("av"),
    )


def _film(
    pipeline: StreamingPipeline, config: BenchConfig, budget: Budget | None = None, *, seed: int = 0
) -> float:
    """Returns the frames per second of one film."""
    forget_captions(pipeline.text_encoder)
    run = FilmRun(pipeline, config, budget or Budget())
    filming = Budget()
    run.film(bench_story(config.num_shots, seed))
    return run.num_frames / filming.spent_s


def _attending(name: str, keys: Tensor, values: Tensor) -> Callable[[Tensor], Tensor]:
    """Returns a kernel for given keys and values, stored in its format."""
    if name == "eight-bit":
        check_eight_bits(keys.device, keys.dtype)
        _, num_tokens, heads, width = keys.shape
        kept = EightBitKeysValues.empty(1, num_tokens, heads, width, keys.device)
        kept.write(keys, values, slice(0, num_tokens), is_context=True)
        return lambda queries: kept.attend(queries, slice(0, num_tokens))
    if name == "flash":

        def attend(queries: Tensor) -> Tensor:
            with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
                return attend_all(queries, keys, values)

        return attend
    chosen: dict[str, AttentionName] = {name: name for name in get_args(AttentionName)}
    kernel = attention_kernel(chosen[name], keys.device, keys.dtype)
    return lambda queries: kernel(queries, keys, values)


def _is_there(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


def _spread(samples: Sequence[float], unit: float = 1.0) -> list[float]:
    """Returns p50, p95 and p99."""
    return [unit * float(np.quantile(samples, level)) for level in (0.5, 0.95, 0.99)] if samples else []


def _samples(value: Any) -> Sequence[float]:
    return getattr(value, "samples", (value,))
