"""Benchmark: the transformer's time for a latent frame, by the rules of each student.

Measured: shots of 21 latent frames of noise, denoised and committed, the students in turn with rotating
order, all with the same random weights and sizes; ShotStream, with its context, is one of them. Included:
noise, rotary tables, every pass. Not included: text, codec. The speed of a network does not depend on its
weights, so this compares schedules: numbers of steps, sizes of chunks, lengths of attention. At tiny sizes
the overhead of a pass counts more than attention, so the ratios say little about a GPU and full frames.
"""

import time
from collections.abc import Callable

import torch

from shotstream.bench.models import draw_weights, wan_tiny_config
from shotstream.bench.report import Report, Row, Spread, machine_facts, milliseconds
from shotstream.diffusion.schedule import FlowSchedule, step_levels
from shotstream.geometry import LatentSize, PixelSize, VideoGeometry
from shotstream.model.dit import DiT
from shotstream.streaming.conditioning import first_shot_conditioning
from shotstream.streaming.inference_group import shared_cache
from shotstream.streaming.noise import KeyedNoise
from shotstream.streaming.rollout import Rollout
from shotstream.weights.key_names import dit_shapes
from shotstream.weights.students import STUDENTS, Student

_NUM_FRAMES = 21
"""Number of latent frames of a shot."""
_BASELINE = "shotstream"


def bench_students(
    size: PixelSize, device: torch.device, num_repeats: int, on_repeat: Callable[[int], None] | None = None
) -> Report:
    """Returns the report of all students with films, at tiny sizes; one more repetition is a warm-up."""
    geometry = VideoGeometry()
    students = [student for student in STUDENTS.values() if student.support == "films"]
    shots = {student.name: _shot(student, geometry.latent_size(size), device) for student in students}
    times_s: dict[str, list[float]] = {name: [] for name in shots}
    names, num_passes = list(shots), dict[str, int]()
    for repeat in range(-1, num_repeats):
        turn = repeat % len(names)
        for name in (*names[turn:], *names[:turn]):
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            start_s = time.perf_counter()
            num_passes[name] = shots[name]()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if repeat >= 0:
                times_s[name].append((time.perf_counter() - start_s) / _NUM_FRAMES)
        if on_repeat is not None and repeat >= 0:
            on_repeat(repeat + 1)
    facts = {**machine_facts(device), "pixel_size": [size.height, size.width], "num_frames": _NUM_FRAMES}
    rows: list[Row] = []
    for name, seconds in times_s.items():
        label = f"{name}, {num_passes[name]} passes: ms per latent frame"
        rows.append(Row(f"{name}_ms", label, milliseconds(seconds)))
        ratio = Spread(tuple(mine / its for mine, its in zip(seconds, times_s[_BASELINE], strict=True)))
        rows.append(Row(f"{name}_ratio", f"{name}: time / ShotStream's", ratio))
    return Report(bench="students", facts=facts, rows=tuple(rows))


def _shot(student: Student, size: LatentSize, device: torch.device) -> Callable[[], int]:
    """Returns a function that generates one shot, and returns the number of its passes."""
    base, rules = wan_tiny_config(), student.rules
    config = student.config(base)
    dit = DiT(config)
    dit.load_state_dict(draw_weights(dit_shapes(config), torch.device("cpu"), torch.float32))
    dit.to(device).eval().requires_grad_(False)
    chunk = config.chunk_latent_frames
    grid = VideoGeometry(patch_size=config.patch_size).token_grid(size)
    cache = shared_cache(dit, grid, torch.float32, rules)
    text = dit.text_cache(torch.zeros(1, 1, config.text_length, config.text_dim, device=device))
    shape = (config.latent_channels, chunk, size.height, size.width)
    noise = KeyedNoise(seeds=(0,), shape=shape, device=device)
    first = None
    if rules is None:
        sigmas = FlowSchedule().student_sigmas().to(device)
    else:
        sigmas = step_levels(rules.steps, rules.shift, rules.step_scale).to(device)
        if rules.first_chunk_steps:
            first = step_levels(rules.first_chunk_steps, rules.shift, rules.step_scale).to(device)
    conditioning = first_shot_conditioning(config, size, device=device)
    num_chunks = _NUM_FRAMES // chunk

    @torch.no_grad()
    def shot() -> int:
        count = num_chunks - 1  # commits

        def observe(chunk_index: int | None, step: int, velocity: torch.Tensor) -> None:
            del chunk_index, step, velocity
            nonlocal count
            count += 1

        rollout = Rollout(dit, conditioning, text, cache, noise, sigmas, first_sigmas=first, observe=observe)
        for _ in rollout.chunks(num_chunks):
            pass
        return count

    return shot
