"""Benchmark: time and memory of a training step, of the recipes' own stages on random weights and data.

Nothing is downloaded and no shards are read: latents and caption embeddings are random tensors of the right
shapes. The time of a step includes everything that the stage does in it, with the copies to the device, but
neither reading shards nor saving. A step of distribution matching consists of `fake_updates` updates of one
kind and one of another, and would take minutes for the same numbers: each kind is timed at the two middle
exit steps, whose mean is that of all, and the step is their sum. Model-FLOP utilisation counts blocks once,
although they are recomputed in the backward pass as in the recipes, and divides by the data sheet's dense
bfloat16.

Every result is a JSON line in a file before the next benchmark is run; a benchmark that fails is a result
too. `bench/gpu_training.sh` runs this. It has not been run on a GPU.
"""

import argparse
import gc
import logging
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from shotstream.bench.models import WAN_TINY, draw_weights, part_shapes, random_config
from shotstream.bench.report import synchronize
from shotstream.bench.results import ResultFile, error_text
from shotstream.bench.training_step import Shot, matching_flops, teacher_step
from shotstream.configs import config_from_document
from shotstream.data.batches import ShotBatch
from shotstream.data.captions import StoredText, StoredTextConfig, stored_caption
from shotstream.data.rng import torch_rng
from shotstream.data.shard_source import ShotSample, condition_sample
from shotstream.data.story_captions import StoryCaptionsBatch
from shotstream.data.story_pool import StoryPool
from shotstream.geometry import LatentSize
from shotstream.model.config import DiTConfig
from shotstream.streaming.conditioning import stack_conditioning
from shotstream.streaming.context_sampling import kept_frames
from shotstream.streaming.shot_memory import ShotMemory
from shotstream.training.dist_context import SINGLE_PROCESS
from shotstream.training.metrics_logger import peak_memory_bytes
from shotstream.training.recipe import AnyRecipe, ModelConfig
from shotstream.training.recipes import recipe
from shotstream.training.stage_builders import open_shots, parallel_config_of
from shotstream.training.stages.dmd import DmdStage
from shotstream.training.stages.inter_shot import inter_shot_stage
from shotstream.training.stages.intra_shot import intra_shot_stage
from shotstream.training.stages.teacher import TeacherConfig, TeacherStage
from shotstream.training.text_conditioned_dit import TextConditionedDiT
from shotstream.vae.codec import Codec
from shotstream.vae.patch_codec import PatchCodec
from shotstream.vae.wan_vae import WanVAE, WanVAEConfig
from shotstream.weights.hub import WAN

log = logging.getLogger(__name__)

_DATA_SHEETS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bfloat16 operations per second, by a part of the GPU's name."""

_NUM_PAST = 2
"""Number of shots before the target shot."""
_WAN_SIZE, _TINY_SIZE = LatentSize(60, 104), LatentSize(4, 6)
_TINY_DIT = ("num_heads=2", "dim=48", "ffn_dim=48", "num_layers=1", "text_dim=8", "text_length=4")
_LEARNT = "wan_teacher", "wan_intra_shot", "wan_inter_shot"


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """Device and size of the benchmarks."""

    device: torch.device
    is_tiny: bool = False
    """Whether to run the same code at a size for a CPU, which measures nothing."""

    @property
    def latent_size(self) -> LatentSize:
        """Size of the latents of the 1.3B recipes, for 832x480 pixels."""
        return _TINY_SIZE if self.is_tiny else _WAN_SIZE

    def wan(self, name: str, *more: str) -> AnyRecipe:
        """Returns a 1.3B recipe for one sample, from random weights."""
        overrides = ["data.batch_size=1", "model.start=''"]
        if self.is_tiny:
            overrides += [f"model.dit.{setting}" for setting in _TINY_DIT]
            overrides += ["data.max_latent_frames=6"]
            overrides += ["stage.lora_rank=2"] if name == "wan_inter_shot" else []
        return recipe(name, [*overrides, *more])


class DrawnShots:
    """A `DataSource` of random latents with two earlier shots; the same for every step and sample."""

    def __init__(self, model: ModelConfig, size: LatentSize, num_latent_frames: int) -> None:
        self._model, config = model, model.dit

        def drawn(*shape: int, place: int) -> Tensor:
            generator = torch.Generator().manual_seed(place)
            return torch.randn(*shape, size.height, size.width, generator=generator).half()

        num_frames = 1 + 4 * (num_latent_frames - 1)
        kept = [kept_frames(num_frames, shot, config.num_context_frames) for shot in range(_NUM_PAST)]
        self._shot = ShotSample(
            latents=drawn(config.latent_channels, num_latent_frames, place=0),
            past=tuple(
                ShotMemory(
                    caption=stored_caption("0", shot),
                    num_frames=num_frames,
                    candidate_frames=frames,
                    latents=drawn(len(frames), config.latent_channels, place=1 + shot),
                )
                for shot, frames in enumerate(kept)
            ),
            caption=stored_caption("0", _NUM_PAST),
        )

    def batch(self, step: int, samples: range) -> ShotBatch:
        """Returns a batch; see `DataSource.batch`."""
        del step
        conditioning, captions = condition_sample(self._shot, self._model.dit, self._model.context_policy)
        x0 = torch.stack([self._shot.latents.float()] * len(samples))
        figures = torch.zeros_like(x0[:, 0], dtype=torch.bool)
        given = stack_conditioning([conditioning] * len(samples))
        return ShotBatch(x0, figures, given, [captions] * len(samples), samples)


class DrawnStories:
    """A `DataSource` of captions of stories of three shots."""

    def __init__(self, num_chunks: int) -> None:
        self._num_chunks = num_chunks

    def batch(self, step: int, samples: range) -> StoryCaptionsBatch:
        """Returns a batch; see `DataSource.batch`."""
        del step
        captions = [stored_caption("0", place) for place in range(_NUM_PAST + 1)]
        lengths = [self._num_chunks] * (_NUM_PAST + 1)
        return StoryCaptionsBatch([captions] * len(samples), lengths, samples)


class DrawnText(StoredText):
    """Random embeddings in place of stored ones, generated once for each caption."""

    def __init__(self, dit: DiTConfig) -> None:
        super().__init__(StoredTextConfig(directory="nowhere"))
        self._shape = dit.text_length, dit.text_dim
        self._drawn: dict[str, Tensor] = {}

    def embed(self, captions: Sequence[str]) -> Float[Tensor, "u n d"]:
        """Returns embeddings; see `StoredText.embed`."""
        for caption in captions:
            if caption not in self._drawn:
                generator = torch_rng(len(self._drawn), "bench/text")
                self._drawn[caption] = torch.randn(self._shape, generator=generator)
        return torch.stack([self._drawn[caption] for caption in captions])


def measure_teacher(setting: Setting, *, causal: bool) -> dict[str, Any]:
    """Returns values of a step of the 1.3B teacher, bidirectional or causal."""
    stage = _teacher_stage(setting, setting.wan("wan_teacher", f"stage.causal_share={int(causal)}"))
    first_s = _timed(setting, lambda: stage.step(0))
    _forget_peak()
    steps_s = [_timed(setting, lambda step=step: stage.step(step)) for step in (1, 2)]
    return {
        "step_s": statistics.median(steps_s),
        "first_step_s": first_s,
        "peak_gb": peak_memory_bytes() / 1e9,
        **_profiled(setting, lambda: stage.step(3)),
    }


def measure_intra_shot(setting: Setting) -> dict[str, Any]:
    """Returns values of a step of distribution matching with the true history."""
    made = setting.wan("wan_intra_shot")
    stage = intra_shot_stage(
        made,
        student=_drawn_model(setting, made.model),
        teacher=_drawn_model(setting, made.model),
        source=DrawnShots(made.model, setting.latent_size, made.data.max_latent_frames),
        parallel=parallel_config_of(made.train, SINGLE_PROCESS),
    )
    return _matching(setting, stage)


def measure_inter_shot(setting: Setting) -> dict[str, Any]:
    """Returns values of a step of distribution matching with two shots of the student's own history."""
    made = setting.wan("wan_inter_shot")
    codec = _drawn_codec(setting)
    stage = inter_shot_stage(
        made,
        student=_drawn_model(setting, made.model),
        teacher=_drawn_model(setting, made.model),
        codec=codec,
        latent_size=setting.latent_size,
        captions=DrawnStories(_num_chunks(made)),
        parallel=parallel_config_of(made.train, SINGLE_PROCESS),
    )
    return _matching(setting, stage)


def measure_theatre(setting: Setting, *, causal: bool, seconds: float = 25.0) -> dict[str, Any]:
    """Returns samples per second of the theatre's teacher.

    Batches are doubled until memory or `seconds` are exhausted.
    """
    overrides = [f"stage.causal_share={int(causal)}", "data.num_blocks=1"]
    overrides += ["data.block_stories=8", "data.num_latent_frames=[9]"]
    if setting.is_tiny:
        overrides += ["data.block_stories=1", "data.num_shots=[2]", "data.batch_size=1"]
        overrides += ["model.dit.num_layers=1", "data.num_latent_frames=[3]"]
    made = recipe("theatre_teacher", overrides)
    torch.manual_seed(0)
    pool = open_shots(made, PatchCodec(recipe("theatre_codec").model).eval())
    assert isinstance(pool, StoryPool)
    stage = TeacherStage(made, pool, setting.device, parallel_config_of(made.train, SINGLE_PROCESS))
    pool.stories(0)
    began, batch, ended = time.perf_counter(), made.data.batch_size, "time"
    rates: dict[str, float] = {}
    peak_gb = 0.0
    while time.perf_counter() - began < seconds:
        stage.recipe = replace(made, data=replace(made.data, batch_size=batch))
        try:
            stage.step(0)
            _forget_peak()
            step_s = _timed(setting, lambda: stage.step(1))
        except torch.OutOfMemoryError:
            ended = "memory"
            break
        rates[str(batch)], peak_gb = batch / step_s, peak_memory_bytes() / 1e9
        if setting.is_tiny and batch > made.data.batch_size:
            ended = "tiny"
            break
        batch *= 2
    largest = int(next(reversed(rates)))
    stage.model.zero_grad()  # memory of the batch that was too large
    _free()
    stage.recipe = replace(made, data=replace(made.data, batch_size=largest))
    return {
        "samples_per_s": rates,
        "largest_batch": largest,
        "ended_by": ended,
        "peak_gb": peak_gb,
        **_profiled(setting, lambda: stage.step(2)),
    }


MEASUREMENTS: Mapping[str, Callable[[Setting], dict[str, Any]]] = {
    "wan_teacher": lambda setting: measure_teacher(setting, causal=False),
    "wan_intra_shot": measure_intra_shot,
    "wan_inter_shot": measure_inter_shot,
    "theatre_teacher": lambda setting: measure_theatre(setting, causal=False),
    "wan_teacher, causal": lambda setting: measure_teacher(setting, causal=True),
    "theatre_teacher, causal": lambda setting: measure_theatre(setting, causal=True, seconds=15),
}
"""The benchmarks, the most important first; causal steps are last, since their attention is compiled."""


def measure_all(
    setting: Setting, results: ResultFile, *, limit_s: float, began: float
) -> list[dict[str, Any]]:
    """Runs every benchmark that starts before the limit; each result is on disk as soon as it is known."""
    found: list[dict[str, Any]] = []
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as counting:
        flops = {name: counting.submit(count_flops, name, setting.is_tiny) for name in _LEARNT}
        for name, measure in MEASUREMENTS.items():
            result: dict[str, Any] = {
                "benchmark": "training",
                "variant": name,
                "device": _device_name(setting),
            }
            if time.perf_counter() - began > limit_s:
                result["error"] = f"not run: {limit_s:.0f} s had passed"
            else:
                log.info("%s", name)
                try:
                    result |= measure(setting)
                except Exception as error:  # after any error the next benchmark is run
                    log.exception("%s failed", name)
                    result["error"] = error_text(error)
                else:
                    result |= _utilisation(setting, result, flops.get(name.partition(",")[0]))
            _free()
            results.add(result)
            found.append(result)
        for future in flops.values():
            future.cancel()
    return found


def count_flops(name: str, is_tiny: bool) -> dict[str, float]:
    """Returns the number of operations of a recipe's step.

    It is called in a separate process, because counting takes long.
    """
    setting = Setting(device=torch.device("cpu"), is_tiny=is_tiny)
    made = setting.wan(name)
    shot = Shot(latent_size=setting.latent_size, num_chunks=_num_chunks(made))
    if isinstance(made.stage, TeacherConfig):
        return {"step": teacher_step(made, shot).flops}
    counted = matching_flops(made, shot)
    fake, student = counted.fake_update(counted.mean_exit), counted.student_update(counted.mean_exit)
    return {"fake": fake, "student": student, "step": made.stage.fake_updates * fake + student}


def _matching(setting: Setting, stage: DmdStage) -> dict[str, Any]:
    """Returns values of the parts of a step of distribution matching; see the module's docstring."""
    short = [part._replace(batch=part.batch._replace(num_chunks=1)) for part in stage.microbatches(0)]
    middle = _keys_of_middle_exits(stage)
    _timed(setting, lambda: (stage.update_fake(short, middle[0]), stage.update_student(short, middle[0])))
    _forget_peak()
    parts = stage.microbatches(1)
    draw_s = _timed(setting, lambda: stage.microbatches(1))
    fake_s = [_timed(setting, lambda key=key: stage.update_fake(parts, key)) for key in middle]
    student_s = [_timed(setting, lambda key=key: stage.update_student(parts, key)) for key in middle]
    fake, student = statistics.mean(fake_s), statistics.mean(student_s)
    found = {
        "step_s": draw_s + stage.recipe.stage.fake_updates * fake + student,
        "draw_s": draw_s,
        "fake_update_s": fake,
        "student_update_s": student,
        "fake_updates": stage.recipe.stage.fake_updates,
        "peak_gb": peak_memory_bytes() / 1e9,
    }
    return found | _profiled(setting, lambda: stage.update_student(parts, middle[0]))


def _keys_of_middle_exits(stage: DmdStage) -> list[tuple[int, int]]:
    """Returns keys of rollouts that end in the two middle steps, whose mean is that of all steps."""
    last = len(stage.recipe.stage.student_steps) - 1
    wanted = (last // 2, math.ceil(last / 2))
    found = {stage.exit_step((0, update)): (0, update) for update in range(64)}
    return [found[exit_step] for exit_step in wanted]


def _profiled(setting: Setting, function: Callable[[], object]) -> dict[str, Any]:
    """Returns the three operations with the most device time, and their shares of it."""
    on_gpu = setting.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities, acc_events=True) as profiled:
        wall_s = _timed(setting, function)
    spent_us = {
        event.key: float(event.self_device_time_total if on_gpu else event.self_cpu_time_total)
        for event in profiled.key_averages()
        if event.device_type.name == "CPU"  # the time of kernels counts for their operation
    }
    total_us = sum(spent_us.values())
    dearest = sorted(spent_us, key=spent_us.__getitem__, reverse=True)[:3]
    return {
        "dearest": {name: spent_us[name] / max(total_us, 1e-9) for name in dearest},
        "busy": total_us / 1e6 / wall_s,
    }


def _utilisation(
    setting: Setting, result: Mapping[str, Any], counting: "Future[dict[str, float]] | None"
) -> dict[str, Any]:
    """Returns the model's operations per second, and their share of the data sheet's."""
    if counting is None:
        return {}
    try:
        flops = counting.result(timeout=120)
    except Exception as error:  # the times are valid without it
        return {"flops_error": error_text(error)}
    spent_s = result["step_s"] - result.get("draw_s", 0.0)
    found: dict[str, Any] = {"model_pflop": flops["step"] / 1e15, "tflops": flops["step"] / 1e12 / spent_s}
    name = _device_name(setting)
    for known, peak in _DATA_SHEETS.items():
        if known in name:
            found["mfu"] = flops["step"] / spent_s / peak
    return found


def _teacher_stage(setting: Setting, made: AnyRecipe) -> TeacherStage:
    source = DrawnShots(made.model, setting.latent_size, made.data.max_latent_frames)
    with setting.device:  # weights are created on the device that uses them
        stage = TeacherStage(made, source, setting.device, parallel_config_of(made.train, SINGLE_PROCESS))
    _furnished(stage.model, made.model)
    return stage


def _drawn_model(setting: Setting, config: ModelConfig) -> TextConditionedDiT:
    with setting.device:
        model = config.build()
    return _furnished(model, config)


def _furnished(model: TextConditionedDiT, config: ModelConfig) -> TextConditionedDiT:
    """Returns a new model with captions and a non-zero head.

    With a zero head all gradients below it would be zero.
    """
    model.text = DrawnText(config.dit)
    nn.init.normal_(model.dit.head.head.weight, std=0.02)
    return model


def _drawn_codec(setting: Setting) -> Codec:
    """Returns Wan's codec with random weights, in float32 like the stage's."""
    config = random_config(WAN_TINY if setting.is_tiny else WAN, with_text=False)
    tensors = draw_weights(part_shapes(config)["codec"], setting.device, torch.float32)
    read = config_from_document(WanVAEConfig, config["codec"], "codec")
    return WanVAE.from_tensors(read, tensors, device=setting.device, dtype=torch.float32)


def _num_chunks(made: AnyRecipe) -> int:
    return made.data.max_latent_frames // made.model.dit.chunk_latent_frames


def _timed(setting: Setting, function: Callable[[], object]) -> float:
    synchronize(setting.device)
    began = time.perf_counter()
    function()
    synchronize(setting.device)
    return time.perf_counter() - began


def _forget_peak() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()


def _free() -> None:
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _device_name(setting: Setting) -> str:
    return torch.cuda.get_device_name(setting.device) if setting.device.type == "cuda" else "cpu"


def _summary(result: Mapping[str, Any]) -> str:
    """Returns a result as one line."""
    if "error" in result:
        return f"{result['variant']}: FAILED: {result['error']}"
    shown = ("step_s", "samples_per_s", "peak_gb", "tflops", "mfu", "busy", "dearest")
    return f"{result['variant']}: " + ", ".join(f"{name} {result[name]}" for name in shown if name in result)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs all benchmarks; returns 1 if one of them failed."""
    began = time.perf_counter()
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-o", dest="directory", type=Path, required=True, help="gets results.jsonl")
    parser.add_argument("--tiny", action="store_true", help="on a CPU, at tiny size: measures nothing")
    parser.add_argument(
        "--limit", type=float, default=150.0, help="seconds after which no benchmark is started"
    )
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    if not given.tiny and not torch.cuda.is_available():
        log.error("there is no GPU here; --tiny tries the program on a CPU")
        return 2
    setting = Setting(device=torch.device("cpu" if given.tiny else "cuda"), is_tiny=given.tiny)
    results = ResultFile(given.directory / "results.jsonl")
    given.directory.mkdir(parents=True, exist_ok=True)
    found = measure_all(setting, results, limit_s=given.limit, began=began)
    for result in found:
        log.info("%s", _summary(result))
    return int(any("error" in result for result in found))


if __name__ == "__main__":
    sys.exit(main())
