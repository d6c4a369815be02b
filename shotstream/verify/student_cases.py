"""The golden cases of students without a context: one function for all of them.

A file's config says which rules the student has, when captions change, and which frames are given. As in
`cases`, only layouts and names are converted; `Rollout` and `FrameStore` compute everything.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from shotstream.diffusion.schedule import StepLevels, step_levels
from shotstream.geometry import LatentSize, TokenGrid, VideoGeometry
from shotstream.model.dit import TIMESTEPS_PER_SIGMA, DiT
from shotstream.model.frame_store import FrameStore
from shotstream.model.student_rules import RecacheRule, RopeRule, StudentRules
from shotstream.streaming.conditioning import first_shot_conditioning
from shotstream.streaming.rollout import Rollout
from shotstream.verify.golden import Golden
from shotstream.verify.networks import Outputs, Target, load_dit, published, video

_LORA_PREFIX = "lora.base_model.model."


def student_case(golden: Golden, target: Target) -> Outputs:
    """Returns the velocities, the latents and the timesteps of a rollout."""
    config = golden.config
    rules = student_rules(config, interval=golden.case == "memory_bank_interactive")
    dit = _merged(golden, load_dit(golden, target, "weights."))
    noise = video(golden.take("noise")).to(target.device)
    renoise = golden.take("renoise").to(target.device)
    captions = golden.take("prompt_embeds").to(target.device)
    given = video(golden.take("initial_latents")) if "initial_latents" in golden.tensors else None
    batch, chunk_frames = noise.shape[0], dit.config.chunk_latent_frames
    levels = step_levels(rules.steps, rules.shift, rules.step_scale)
    first_levels = step_levels(rules.first_chunk_steps or rules.steps, rules.shift, rules.step_scale)
    size = LatentSize(*noise.shape[-2:])
    first_frames = chunk_frames if given is not None else (rules.first_chunk_frames or chunk_frames)
    starts = [0, *range(first_frames, noise.shape[2] + 1, chunk_frames)]
    if starts[-1] != noise.shape[2]:
        raise ValueError(f"{noise.shape[2]} frames of noise do not fill whole chunks")
    outputs = {"timesteps": _timesteps(levels), "timesteps_first_chunk": _timesteps(first_levels)}

    def noise_of(chunk_index: int, step: int) -> Tensor:
        if step == 0:
            return noise[:, :, starts[chunk_index] : starts[chunk_index + 1]]
        return video(renoise[chunk_index, step - 1][None]).expand(batch, -1, -1, -1, -1)

    def observe(chunk_index: int | None, step: int, velocity: Tensor) -> None:
        assert chunk_index is not None
        # Of chunks that are denoised together it gets the oldest: their pass is as many steps after it.
        name = f"window{chunk_index + step}" if rules.rolling else f"block{chunk_index}.step{step}"
        outputs[f"out.{name}.flow"] = published(velocity)

    rollout = Rollout(
        dit,
        replace(
            first_shot_conditioning(dit.config, size, batch=batch),
            given=given,
        ).to(target.device),
        _caption(captions, 0, batch),
        FrameStore(dit.config, rules, batch, _grid(dit, size), target.dtype, target.device),
        noise_of,
        levels,
        first_sigmas=first_levels,
        observe=observe,
    )
    switches = _switches(config, starts)
    parts: list[Tensor] = [] if given is None else [given.to(target.device)]
    segment = 0
    chunks = rollout.chunks(len(starts) - 1)
    for chunk_index in range(len(starts) - 1):
        if chunk_index in switches:
            segment += 1
            rollout.switch(_caption(captions, segment, batch), is_cut=switches[chunk_index])
        parts.append(next(chunks))
    outputs["out.latents"] = published(torch.cat(parts, dim=2))
    return outputs


def student_rules(config: Mapping[str, Any], *, interval: bool = False) -> StudentRules:
    """Returns the rules in a golden's config; `interval`: the bank takes the first of several chunks."""
    window, chunk = int(config["window"]), int(config["num_frames_per_chunk"])
    first_frames = int(config.get("first_chunk_frames") or chunk)
    rope: RopeRule = config["rope"]
    recache: RecacheRule = "none"
    if config.get("recache"):
        recache = "window_keep_sink" if config.get("global_sink") else "window"
    if config.get("commit_timestep"):
        raise ValueError("only commit passes at level 0 are known")
    return StudentRules(
        steps=tuple(config["steps"]),
        shift=float(config["shift"]),
        step_scale="warped" if config["warp"] else "timestep",
        first_chunk_steps=tuple(config.get("first_chunk_steps") or ()),
        first_chunk_frames=0 if first_frames == chunk else first_frames,
        window=window,
        sink=int(config.get("sink") or 0),
        rope=rope,
        sink_ema=1.0 if config.get("sink_ema") is None else float(config["sink_ema"]),
        bank=int(config.get("bank") or 0),
        record_interval=int(config.get("record_interval") or 1),
        bank_rule="interval" if interval else "every_chunk",
        recache=recache,
        cut_position=int(config.get("cut_position") or 0),
        rolling=rope == "absolute_moving_anchor",
    )


def _switches(config: Mapping[str, Any], starts: Sequence[int]) -> dict[int, bool]:
    """Returns the chunks before which captions change, each with whether it follows a cut."""
    if config.get("scene_chunks"):
        marks = config.get("scene_cut_at_start")
        if marks is None:
            # The published mark cuts at the beginning of the next scene.
            marks = [False, *config["scene_cut_marks"][:-1]]
        chunks = [sum(config["scene_chunks"][:scene]) for scene in range(len(config["scene_chunks"]))]
        return dict(zip(chunks[1:], marks[1:], strict=True))
    if config.get("switch_frame_indices") is None:
        return dict.fromkeys(config.get("recache_before_chunk") or (), False)
    left = sorted(config["switch_frame_indices"])
    chunks = []
    for chunk_index, first in enumerate(starts[:-1]):
        # One at a time: two indices within one chunk take two chunks.
        if left and first >= left[0]:
            left.pop(0)
            chunks.append(chunk_index)
    return dict.fromkeys(chunks, False)


def _merged(golden: Golden, dit: DiT) -> DiT:
    """Returns the network with the file's LoRA, if there is one, added to its weights."""
    adapters = golden.weights(_LORA_PREFIX)
    if adapters:
        settings = golden.config["lora"]
        scale = float(settings["alpha"]) / int(settings["rank"])
        with torch.no_grad():
            for name, down in adapters.items():
                if not name.endswith(".lora_A.weight"):
                    continue
                layer = name.removesuffix(".lora_A.weight")
                up = adapters[f"{layer}.lora_B.weight"]
                weight = dit.get_parameter(f"{layer}.weight")
                weight += (scale * up @ down).to(weight)
    return dit


def _timesteps(levels: StepLevels) -> Tensor:
    return (TIMESTEPS_PER_SIGMA * levels.told).float()


def _grid(dit: DiT, size: LatentSize) -> TokenGrid:
    return VideoGeometry(patch_size=dit.config.patch_size).token_grid(size)


def _caption(captions: Tensor, row: int, batch: int) -> Tensor:
    if row >= len(captions):
        raise ValueError(f"{len(captions)} captions; the file changes them more often")
    return captions[row][None, None].expand(batch, -1, -1, -1)
