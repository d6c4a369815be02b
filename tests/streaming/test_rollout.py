"""The rollout: goldens, one path for training and inference, what carries a gradient and what never does."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from einops import rearrange
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor

from shotstream.diffusion.schedule import FlowSchedule
from shotstream.geometry import LatentSize, VideoGeometry
from shotstream.model.config import DiTConfig
from shotstream.model.cross_attention import TextCache
from shotstream.model.dit import DiT
from shotstream.model.dual_cache import DualCache
from shotstream.model.positions import context_positions
from shotstream.streaming.conditioning import Conditioning, first_shot_conditioning
from shotstream.streaming.noise import KeyedNoise, NoiseSource
from shotstream.streaming.rollout import Observe, Rollout
from shotstream.streaming.timing import Stopwatch
from tests.streaming.tiny import (
    LATENT_SIZE,
    tiny_cache,
    tiny_conditioning,
    tiny_config,
    tiny_dit,
    tiny_text,
)

GOLDENS = Path(__file__).parents[1] / "assets" / "goldens"
SIGMAS = FlowSchedule().student_sigmas()
SHAPE = (4, 3, LATENT_SIZE.height, LATENT_SIZE.width)


@dataclass(frozen=True, kw_only=True, slots=True)
class GivenNoise:
    """Noise that was recorded, in the place of a keyed one."""

    noise: Float[Tensor, "b c shot_f h w"]
    """What the chunks of the shot start from."""
    renoise: Sequence[Sequence[Float[Tensor, "b c f h w"]]]
    """Indexed by chunk, then by step - 1."""

    def __call__(self, chunk_index: int, step_index: int) -> Float[Tensor, "b c f h w"]:
        """The noise recorded for (chunk, step)."""
        if step_index:
            return self.renoise[chunk_index][step_index - 1]
        num_latent_frames = self.noise.shape[2] // len(self.renoise)
        return self.noise.narrow(2, chunk_index * num_latent_frames, num_latent_frames)


def keyed(*seeds: int) -> KeyedNoise:
    return KeyedNoise(seeds=seeds, shape=SHAPE, device=torch.device("cpu"))


def roll(
    dit: DiT,
    noise: NoiseSource,
    num_chunks: int = 3,
    *,
    batch: int = 1,
    exit_steps: list[int] | None = None,
    text: Tensor | TextCache | None = None,
    observe: Observe | None = None,
) -> list[Tensor]:
    rollout = Rollout(
        dit,
        tiny_conditioning(dit.config, batch),
        tiny_text(dit.config, batch) if text is None else text,
        tiny_cache(dit, batch),
        noise,
        SIGMAS,
        observe=observe,
    )
    return list(rollout.chunks(num_chunks, exit_steps))


@pytest.mark.goldens
@pytest.mark.parametrize("name", ["dit_causal_rollout", "dit_causal_first_shot"])
def test_rollout_equals_the_published_one(name: str) -> None:
    with safe_open(GOLDENS / f"{name}.safetensors", "pt") as file:
        sizes = json.loads(file.metadata()["config"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    config = DiTConfig(
        latent_channels=sizes["in_dim"],
        dim=sizes["dim"],
        ffn_dim=sizes["ffn_dim"],
        num_heads=sizes["num_heads"],
        num_layers=sizes["num_layers"],
        text_dim=sizes["text_dim"],
        text_length=sizes["text_len"],
        freq_dim=sizes["freq_dim"],
    )
    dit = DiT(config).eval()
    prefix = "weights.model."
    dit.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    flags = tensors["shot_index"].long()[None]
    context = config.num_context_frames
    conditioning = Conditioning(
        context=rearrange(tensors["condition_latents"], "b f c h w -> b c f h w"),
        positions=context_positions(flags[:, :context], flags[:, :context]),
        target_phase=flags[:, context],
        target_caption=flags[:, context],
    )
    size = LatentSize(*conditioning.context.shape[-2:])
    cache = DualCache(config, 1, VideoGeometry().token_grid(size))
    noise = GivenNoise(
        noise=rearrange(tensors["noise"], "b f c h w -> b c f h w"),
        renoise=[[rearrange(step, "f c h w -> 1 c f h w") for step in chunk] for chunk in tensors["renoise"]],
    )
    seen: dict[str, Tensor] = {}

    def observe(chunk: int | None, step: int, velocity: Tensor) -> None:
        seen["out.context.flow" if chunk is None else f"out.block{chunk}.step{step}.flow"] = velocity

    sigmas = FlowSchedule(shift=sizes["shift"]).student_sigmas()
    rollout = Rollout(
        dit, conditioning, tensors["prompt_embeds"][None], cache, noise, sigmas, observe=observe
    )
    seen["out.latents"] = torch.cat(list(rollout.chunks(len(noise.renoise))), dim=2)
    results = {key: rearrange(value, "b c f h w -> b f c h w") for key, value in seen.items()}
    for layer in range(config.num_layers):
        keys, values = cache.context(layer)
        results |= {f"out.context.layer{layer}.k": keys, f"out.context.layer{layer}.v": values}
    expected = {key for key in tensors if key.startswith("out.")}
    assert expected <= results.keys()
    for key in expected:
        error = (results[key] - tensors[key]).abs().max() / max(1.0, tensors[key].abs().max().item())
        assert error <= 1e-4, key


def test_training_rollout_equals_inference_rollout_for_equal_noise() -> None:
    dit = tiny_dit()
    last = len(SIGMAS) - 1
    text = dit.text_cache(tiny_text(dit.config))
    inferred = torch.cat(roll(dit, keyed(7), text=text), dim=2)
    trained = torch.cat(roll(dit, keyed(7), exit_steps=[last] * 3), dim=2)
    assert trained.requires_grad and not inferred.requires_grad
    torch.testing.assert_close(trained, inferred, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        no_gradient = torch.cat(roll(dit, keyed(7), exit_steps=[last] * 3), dim=2)
    assert torch.equal(no_gradient, inferred)


def test_every_chunk_has_exactly_one_gradient_bearing_pass() -> None:
    bearing: list[tuple[int | None, int]] = []

    def observe(chunk: int | None, step: int, velocity: Tensor) -> None:
        if velocity.requires_grad:
            bearing.append((chunk, step))

    roll(tiny_dit(), keyed(7), exit_steps=[2, 0, 3], observe=observe)
    assert bearing == [(0, 2), (1, 0), (2, 3)]


def test_nothing_flows_back_through_the_caches() -> None:
    """The published rollout lets chunk i + 1 train the keys that chunk i left in its cache."""
    dit = tiny_dit()
    first = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(3)).requires_grad_()
    source = keyed(7)

    def noise(chunk_index: int, step_index: int) -> Tensor:
        return first if (chunk_index, step_index) == (0, 0) else source(chunk_index, step_index)

    chunks = roll(dit, noise, 2, exit_steps=[0, 0])
    assert torch.autograd.grad(chunks[0].sum(), first, retain_graph=True, allow_unused=True)[0] is not None
    assert torch.autograd.grad(chunks[1].sum(), first, allow_unused=True)[0] is None


def test_every_parameter_that_a_student_uses_gets_a_gradient() -> None:
    dit = tiny_dit()
    torch.cat(roll(dit, keyed(7), exit_steps=[1, 1, 1]), dim=2).square().mean().backward()
    assert [name for name, parameter in dit.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("num_chunks", [3, 6])
def test_loss_and_gradients_are_the_same_with_activation_checkpointing(num_chunks: int) -> None:
    """A commit between a checkpointed pass and its recomputation must not change what that pass reads."""
    losses: list[Tensor] = []
    gradients: list[list[Tensor]] = []
    for checkpointing in (False, True):
        dit = tiny_dit(tiny_config(window_chunks=6))
        dit.activation_checkpointing = checkpointing
        loss = torch.cat(roll(dit, keyed(7), num_chunks, exit_steps=[1] * num_chunks), dim=2).square().mean()
        loss.backward()
        losses.append(loss.detach())
        gradients.append([p.grad for p in dit.parameters() if p.grad is not None])
    assert torch.equal(*losses)
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed, rtol=1e-6, atol=1e-8)


def test_samples_of_a_batch_equal_rollouts_of_their_own() -> None:
    dit = tiny_dit()
    together = torch.cat(roll(dit, keyed(1, 2), batch=2), dim=2)
    conditioning, text = tiny_conditioning(dit.config, 2), tiny_text(dit.config, 2)
    for sample, seed in enumerate((1, 2)):
        part = slice(sample, sample + 1)
        alone = Conditioning(
            context=conditioning.context[part],
            positions=conditioning.positions,
            target_phase=conditioning.target_phase[part],
            target_caption=conditioning.target_caption[part],
        )
        rollout = Rollout(
            dit,
            Conditioning(
                context=alone.context,
                positions=context_positions(
                    alone.positions.shot_phase[part], alone.positions.caption_index[part]
                ),
                target_phase=alone.target_phase,
                target_caption=alone.target_caption,
            ),
            text[part],
            tiny_cache(dit),
            keyed(seed),
            SIGMAS,
        )
        expected = torch.cat(list(rollout.chunks(3)), dim=2)
        torch.testing.assert_close(together[part], expected, rtol=1e-4, atol=1e-4)


def test_captions_that_are_switched_are_read_from_the_next_chunk_on() -> None:
    dit = tiny_dit()
    cache = tiny_cache(dit)
    first, second = tiny_text(dit.config), tiny_text(dit.config, seed=1)

    def shot(switch_before: int | None) -> list[Tensor]:
        rollout = Rollout(dit, tiny_conditioning(dit.config), first, cache, keyed(7), SIGMAS)
        chunks: list[Tensor] = []
        made = rollout.chunks(3)
        for index in range(3):
            if index == switch_before:
                rollout.switch(second)
            chunks.append(next(made))
        return chunks

    kept, switched, same = shot(None), shot(2), roll(dit, keyed(7), text=first)
    assert all(map(torch.equal, kept, same)) and all(map(torch.equal, kept[:2], switched[:2]))
    assert not torch.equal(kept[2], switched[2])


def test_a_chunk_is_the_same_however_long_the_shot_is() -> None:
    dit = tiny_dit()
    long = roll(dit, keyed(7), 4)
    for short, chunk in zip(roll(dit, keyed(7), 2), long, strict=False):
        assert torch.equal(short, chunk)


def test_the_last_chunk_is_not_committed_and_each_other_one_only_when_the_next_is_asked_for() -> None:
    dit = tiny_dit()
    cache = tiny_cache(dit)
    rollout = Rollout(dit, tiny_conditioning(dit.config), tiny_text(dit.config), cache, keyed(7), SIGMAS)
    committed = [cache.num_chunks for _ in rollout.chunks(3)]
    assert committed == [0, 1, 2] and cache.num_chunks == 2


def test_a_shot_without_an_end_slides_its_window() -> None:
    dit = tiny_dit()
    stopwatch = Stopwatch(torch.device("cpu"))
    rollout = Rollout(
        dit,
        tiny_conditioning(dit.config),
        tiny_text(dit.config),
        tiny_cache(dit),
        keyed(7),
        SIGMAS,
        stopwatch=stopwatch,
    )
    open_end = rollout.chunks(None)
    endless = [next(open_end) for _ in range(9)]
    assert stopwatch.take().keys() == {"context", "denoise", "commit"}
    assert all(torch.equal(a, b) for a, b in zip(endless, roll(dit, keyed(7), 9), strict=True))
    assert all(bool(chunk.isfinite().all()) for chunk in endless)


def test_keyed_noise_is_a_function_of_seed_chunk_and_step() -> None:
    noise = keyed(5)
    first = noise(0, 0)
    noise(3, 2)
    assert torch.equal(noise(0, 0), first)
    others = [noise(0, 1), noise(1, 0), keyed(6)(0, 0)]
    assert not any(torch.equal(first, other) for other in others)
    assert torch.equal(keyed(6, 5)(0, 0)[1:], first)


def test_a_first_shot_reads_its_one_caption() -> None:
    dit = tiny_dit()
    conditioning = first_shot_conditioning(dit.config, LATENT_SIZE)
    for num_captions, expected in ((1, True), (2, True)):
        text = tiny_text(dit.config, num_captions=2)[:, :num_captions]
        rollout = Rollout(dit, conditioning, text, tiny_cache(dit), keyed(7), SIGMAS)
        latents = next(rollout.chunks(1))
        if num_captions == 1:
            alone = latents
        assert torch.allclose(latents, alone, atol=1e-5) is expected


def test_a_network_told_the_target_level_for_its_context_cannot_roll() -> None:
    dit = tiny_dit(tiny_config(context_sigma="target"))
    with pytest.raises(ValueError, match="use its student"):
        roll(dit, keyed(7))


def test_exit_steps_are_one_per_chunk() -> None:
    with pytest.raises(ValueError, match="2 exit steps for 3 chunks"):
        roll(tiny_dit(), keyed(7), 3, exit_steps=[0, 1])
