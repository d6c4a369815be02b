"""The golden cases, a function each: from the inputs in the file to this implementation's outputs.

They are adapters only: layouts, timesteps and flags of the published code are converted, and the modules that
own each computation compute it.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from shotstream.diffusion.dmd import dmd_gradient, dmd_loss
from shotstream.diffusion.flow import add_noise, x0_from_velocity
from shotstream.diffusion.samplers import guide
from shotstream.diffusion.schedule import STUDENT_STEPS, FlowSchedule
from shotstream.geometry import LatentSize, VideoGeometry
from shotstream.model.causal_mask import CausalMask
from shotstream.model.dit import TIMESTEPS_PER_SIGMA, DiT
from shotstream.model.dual_cache import DualCache, KeysValues
from shotstream.model.positions import FramePositions, context_positions
from shotstream.streaming.conditioning import Conditioning
from shotstream.streaming.context_candidates import NextShot, frame_candidates
from shotstream.streaming.context_sampling import choose_context
from shotstream.streaming.rollout import Rollout
from shotstream.text.text_encoder import UMT5Config, build_umt5, embed_tokens
from shotstream.vae.wan_vae import WanVAE, WanVAEConfig
from shotstream.verify.golden import Golden
from shotstream.verify.networks import Outputs, Target, load_dit, published, video
from shotstream.verify.student_cases import student_case
from shotstream.weights.key_names import umt5_names, vae_names
from shotstream.weights.tensor_files import lazy_tensors, rename

_MOST_STEPS, _MOST_FRAMES = 10_000, 100_000
"""Maximum numbers of steps and of frames in a golden; larger ones would run for ever."""


def _schedule(golden: Golden, _target: Target) -> Outputs:
    config = golden.config
    if int(config["num_train_timesteps"]) > _MOST_STEPS:
        raise ValueError(f"num_train_timesteps is more than {_MOST_STEPS:,}")
    schedule = FlowSchedule(shift=float(config["shift"]), num_train_steps=int(config["num_train_timesteps"]))
    steps = tuple(config["denoising_step_list"])
    sigmas, rows = schedule.train_sigmas(), golden.take("train_index")
    noised = add_noise(
        video(golden.take("add_noise.x0")[None]),
        video(golden.take("add_noise.noise")[None]),
        schedule.nearest_sigma(golden.take("add_noise.timestep") / TIMESTEPS_PER_SIGMA)[None],
    )
    outputs = {
        "train_timesteps": TIMESTEPS_PER_SIGMA * sigmas[rows],
        "train_sigmas": sigmas[rows],
        "train_weights": schedule.training_weight(sigmas)[rows],
        "denoising_steps": TIMESTEPS_PER_SIGMA * schedule.student_sigmas(steps),
        "denoising_steps_ode": TIMESTEPS_PER_SIGMA * schedule.student_sigmas((*steps, 0)),
        "add_noise.out": published(noised)[0],
    }
    # sample50_sigmas is the table of a 50-step sampler; any other number is possible.
    for name in golden.expected():
        prefix, _, quantity = name.partition("_")
        num_steps = prefix.removeprefix("sample")
        if num_steps.isdigit() and quantity in ("sigmas", "timesteps"):
            if len(num_steps) > len(str(_MOST_STEPS)) or int(num_steps) > _MOST_STEPS:
                raise ValueError(f"a table of {num_steps[:20]} steps; at most {_MOST_STEPS:,} are compared")
            table = schedule.sampling_sigmas(int(num_steps))[:-1]
            outputs[name] = table if quantity == "sigmas" else TIMESTEPS_PER_SIGMA * table
    return outputs


def _context_sampling(golden: Golden, _target: Target) -> Outputs:
    """Returns the rows of the JSON file as tensors: expected as recorded, computed as sampled."""
    outputs: Outputs = {}
    expected: dict[str, Tensor] = {}
    policy = golden.config["policy"]
    for index, row in enumerate(golden.config["rows"]):
        frames: list[int] = row["frames_per_shot"]
        if max(row["budget"], sum(frames)) > _MOST_FRAMES:
            raise ValueError(f"row {index} is of more than {_MOST_FRAMES:,} frames")
        plan = choose_context(
            [
                candidate
                for shot, num_frames in enumerate(frames)
                for candidate in frame_candidates(shot, num_frames, range(num_frames), torch.empty)
            ],
            NextShot(index=len(frames), caption=""),
            row["budget"],
            policy,
        )
        chosen = [slot.candidate for slot in plan.slots]
        before = [sum(frames[:shot]) for shot in range(len(frames))]
        ours = {
            "frame_index": [before[slot.shot_index] + (slot.frame_index or 0) for slot in chosen],
            "shot_index": [slot.shot_index for slot in chosen],
        }
        for key in row.keys() - {"frames_per_shot", "budget"}:
            expected[f"rows.{index}.{key}"] = torch.tensor(row[key])
        outputs |= {f"rows.{index}.{key}": torch.tensor(values) for key, values in ours.items()}
    golden.tensors = expected
    return outputs


def _teacher_forward(golden: Golden, target: Target) -> Outputs:
    dit = load_dit(golden, target, "weights.")
    latents = video(golden.take("latents")).to(target.device)
    flags = golden.take("shot_index").to(target.device)
    captions = golden.take("prompt_embeds").to(target.device)
    sigma = _sigmas(golden.take("timestep"), latents)
    phased, plain = _positions(flags), _positions(torch.zeros_like(flags))
    return {
        "flow.multi_caption": published(dit(latents, sigma, _text(captions, latents), phased)),
        "flow.single_caption": published(dit(latents, sigma, _text(captions[:1], latents), phased)),
        "flow.single_caption_no_shots": published(dit(latents, sigma, _text(captions[:1], latents), plain)),
    }


def _student_masked_forward(golden: Golden, target: Target) -> Outputs:
    latents = video(golden.take("latents")).to(target.device)
    dit = load_dit(golden, target, "weights.", window_chunks=latents.shape[2])
    text = _text(golden.take("prompt_embeds").to(target.device), latents)
    positions = _positions(golden.take("shot_index").to(target.device))
    sigma = _sigmas(golden.take("timestep"), latents)
    grid = VideoGeometry(patch_size=dit.config.patch_size).token_grid(LatentSize(*latents.shape[-2:]))
    num_target_frames = latents.shape[2] - dit.config.num_context_frames
    mask = CausalMask.for_shot(dit.config, grid, num_target_frames)
    return {"flow": published(dit(latents, sigma, text, positions, mask=mask))}


def _student_rollout(golden: Golden, target: Target) -> Outputs:
    renoise = golden.take("renoise").to(target.device)
    dit = load_dit(golden, target, "weights.", window_chunks=renoise.shape[0])
    config = dit.config
    context = video(golden.take("condition_latents")).to(target.device)
    noise = video(golden.take("noise")).to(target.device)
    captions = golden.take("prompt_embeds").to(target.device)
    flags = golden.take("shot_index").to(target.device)[None].expand(context.shape[0], -1)
    chunk, num_chunks = config.chunk_latent_frames, renoise.shape[0]
    schedule = FlowSchedule(shift=float(golden.config["shift"]))
    sigmas = schedule.student_sigmas(tuple(golden.config.get("denoising_step_list", STUDENT_STEPS)))
    if renoise.shape[1] != len(sigmas) - 1 or noise.shape[2] != num_chunks * chunk:
        raise ValueError(
            f"renoise {list(renoise.shape)} does not fit {len(sigmas)} steps of the noise's chunks"
        )
    outputs: Outputs = {}

    def noise_of(chunk_index: int, step: int) -> Tensor:
        if step == 0:
            return noise[:, :, chunk_index * chunk : (chunk_index + 1) * chunk]
        return video(renoise[chunk_index, step - 1][None]).expand(context.shape[0], -1, -1, -1, -1)

    def observe(chunk_index: int | None, step: int, velocity: Tensor) -> None:
        name = "context" if chunk_index is None else f"block{chunk_index}.step{step}"
        outputs[f"out.{name}.flow"] = published(velocity)

    num_context = context.shape[2]
    grid = VideoGeometry(patch_size=config.patch_size).token_grid(LatentSize(*context.shape[-2:]))
    cache = DualCache(config, context.shape[0], grid, target.dtype, target.device)
    conditioning = Conditioning(
        context=context,
        positions=context_positions(flags[:, :num_context], flags[:, :num_context]),
        target_phase=flags[:, num_context],
        target_caption=flags[:, num_context],
    )
    rollout = Rollout(
        dit,
        conditioning,
        _text(captions, context),
        cache,
        noise_of,
        sigmas.to(target.device),
        observe=observe,
    )
    outputs["out.latents"] = published(torch.cat(list(rollout.chunks(num_chunks)), dim=2))
    for layer in range(config.num_layers):
        kept = cache.context(layer)
        assert isinstance(kept, KeysValues)
        outputs[f"out.context.layer{layer}.k"], outputs[f"out.context.layer{layer}.v"] = kept
    return outputs


def _dmd_gradient(golden: Golden, target: Target) -> Outputs:
    fake, real = (load_dit(golden, target, f"{network}.") for network in ("fake", "real"))
    context, x0, noise = (
        video(golden.take(name)).to(target.device) for name in ("condition_latents", "x0", "noise")
    )
    captions, negative = (
        _text(golden.take(name).to(target.device), x0) for name in ("prompt_embeds", "negative_prompt_embeds")
    )
    positions = _positions(golden.take("shot_index").to(target.device))
    schedule = FlowSchedule(shift=float(golden.config["shift"]))
    told = _sigmas(golden.take("timestep"), torch.cat([context, x0], dim=2))
    sigma = schedule.nearest_sigma(told)[:, context.shape[2] :]
    noisy = add_noise(x0, noise, sigma)

    def predict_x0(dit: DiT, text: Tensor) -> Tensor:
        velocity = dit(torch.cat([context, noisy], dim=2), told, text, positions)
        return x0_from_velocity(noisy, velocity[:, :, context.shape[2] :], sigma)

    pred_fake = predict_x0(fake, captions)
    # A published scale s means c + s (c - u).
    scale = float(golden.take("guidance_scale")) + 1
    pred_real = guide(predict_x0(real, negative), predict_x0(real, captions), scale)
    gradient = dmd_gradient(x0, pred_fake, pred_real)
    return {
        "noisy": published(noisy),
        "pred_fake": published(pred_fake),
        "pred_real_guided": published(pred_real),
        "gradient": published(gradient),
        "loss": dmd_loss(x0, gradient)[None],
    }


def _vae(golden: Golden, target: Target) -> Outputs:
    names = {"z_dim": "latent_channels"}
    values = {names.get(key, key): value for key, value in golden.config.items()}
    values |= {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
    config = WanVAEConfig(**values)
    tensors = rename(lazy_tensors(golden.weights("weights."), golden.file), vae_names(config))
    vae = WanVAE.from_tensors(
        config,
        {name: tensor.load() for name, tensor in tensors.items()},
        geometry=VideoGeometry(temporal_stride=config.temporal_stride, spatial_stride=config.spatial_stride),
        device=target.device,
        dtype=target.dtype,
    )
    video = golden.take("video").to(target.device)
    latents = vae.encode(video)
    outputs = {"latents": latents, "decoded": vae.decode(latents)}
    for name in golden.expected():
        frame = name.removeprefix("image_latents_frame")
        if frame.isdigit() and int(frame) < video.shape[2]:
            outputs[name] = vae.encode(video[:, :, int(frame)][:, :, None])
    return outputs


def _text_encoder(golden: Golden, target: Target) -> Outputs:
    ids, mask = golden.take("input_ids"), golden.take("attention_mask")
    config = UMT5Config(**golden.config, text_length=ids.shape[1])
    tensors = rename(lazy_tensors(golden.weights("weights."), golden.file), umt5_names(config.num_layers))
    loaded = {name: tensor.load() for name, tensor in tensors.items()}
    encoder = build_umt5(config, loaded, device=target.device, dtype=target.dtype).eval()
    return {"prompt_embeds": embed_tokens(encoder, ids.to(target.device), mask.to(target.device))}


CASES: dict[str, Callable[[Golden, Target], Outputs]] = {
    "schedule": _schedule,
    "context_sampling": _context_sampling,
    "teacher_forward": _teacher_forward,
    "student_rollout": _student_rollout,
    "student_masked_forward": _student_masked_forward,
    "dmd_gradient": _dmd_gradient,
    "vae": _vae,
    "text_encoder": _text_encoder,
    "single_shot_rollout": student_case,
    "interactive": student_case,
    "scenes": student_case,
    "ema_sink_rollout": student_case,
    "memory_bank_rollout": student_case,
    "memory_bank_interactive": student_case,
    "rolling_window": student_case,
}


def _sigmas(timestep: Tensor, latents: Tensor) -> Tensor:
    """Returns noise levels "b f" from timesteps of the batch or of every frame; exact, so in float64."""
    per_frame = timestep if timestep.ndim == 2 else timestep[:, None]
    return (
        (per_frame.double() / TIMESTEPS_PER_SIGMA)
        .expand(latents.shape[0], latents.shape[2])
        .to(latents.device)
    )


def _positions(flags: Tensor) -> FramePositions:
    """Returns the positions of frames, which count from 0.

    The published flag is both the shot phase and the index of the caption of a frame.
    """
    return FramePositions(torch.arange(len(flags), device=flags.device)[None], flags[None], flags[None])


def _text(captions: Tensor, latents: Tensor) -> Tensor:
    return captions[None].expand(latents.shape[0], -1, -1, -1)
