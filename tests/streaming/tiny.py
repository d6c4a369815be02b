"""Tiny networks with random weights for the tests of this directory."""

from collections.abc import Sequence

import torch
from torch import Tensor

from shotstream.configs import config_from_document
from shotstream.diffusion.schedule import STUDENT_STEPS
from shotstream.geometry import LatentSize, PixelSize, TokenGrid
from shotstream.model.config import DiTConfig
from shotstream.model.dit import DiT
from shotstream.model.dual_cache import DualCache
from shotstream.model.positions import context_positions
from shotstream.model.student_rules import StudentRules
from shotstream.streaming.choice import Choice
from shotstream.streaming.conditioning import Conditioning
from shotstream.streaming.context_candidates import (
    Comparison,
    ContextCandidate,
    ContextPolicy,
    Match,
    NextShot,
)
from shotstream.streaming.context_sampling import ContextPlan, choose_context, kept_frames
from shotstream.streaming.inference_group import InferenceGroup
from shotstream.streaming.inference_options import InferenceOptions
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.streaming.pipeline_config import PipelineConfig
from shotstream.streaming.shot_memory import ShotMemory
from shotstream.text.word_encoder import WordEncoder, WordEncoderConfig
from shotstream.theatre.caption_encoder import CaptionEncoder, CaptionEncoderConfig
from shotstream.theatre.questions import QUESTIONS
from shotstream.vae.patch_codec import PatchCodec, PatchCodecConfig

LATENT_SIZE = LatentSize(4, 6)


def tiny_config(**changes: object) -> DiTConfig:
    sizes: dict[str, object] = {
        "latent_channels": 4,
        "dim": 24,
        "ffn_dim": 32,
        "num_heads": 2,
        "num_layers": 2,
        "text_dim": 5,
        "text_length": 3,
        "freq_dim": 8,
        "num_context_frames": 3,
        "chunk_latent_frames": 3,
        "window_chunks": 4,
    }
    return config_from_document(DiTConfig, {**sizes, **changes}, "tiny")


def tiny_dit(config: DiTConfig | None = None, seed: int = 0) -> DiT:
    """A network whose head is not zero, so that every input matters."""
    generator = torch.Generator().manual_seed(seed)
    dit = DiT(config or tiny_config(), generator=generator)
    with torch.no_grad():
        for parameter in dit.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.15)
    return dit.eval()


def tiny_cache(dit: DiT, batch: int = 1) -> DualCache:
    grid = LATENT_SIZE.height // dit.config.patch_size, LATENT_SIZE.width // dit.config.patch_size
    return DualCache(dit.config, batch, TokenGrid(*grid))


def tiny_conditioning(config: DiTConfig, batch: int = 1, seed: int = 0) -> Conditioning:
    """A context of two earlier shots, whose captions are rows 0 and 1; the target reads row 2."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, config.latent_channels, config.num_context_frames, LATENT_SIZE.height, LATENT_SIZE.width)
    phases = torch.tensor([[0, 0, 1]]).expand(batch, -1)
    return Conditioning(
        context=torch.randn(shape, generator=generator),
        positions=context_positions(phases, phases),
        target_phase=torch.full((batch,), 2),
        target_caption=torch.full((batch,), 2),
    )


def tiny_memory(
    shot_index: int, num_frames: int = 9, budget: int = 3, *, num_pins: int = 0, fill: float | None = None
) -> ShotMemory:
    """A shot whose latents are its index, or `fill`; its pinned pictures are -1, -2, ..."""
    kept = kept_frames(num_frames, shot_index, budget)
    shape = (4, LATENT_SIZE.height, LATENT_SIZE.width)
    return ShotMemory(
        caption=f"shot {shot_index}",
        num_frames=num_frames,
        candidate_frames=kept,
        latents=torch.full((len(kept), *shape), float(shot_index) if fill is None else fill),
        pinned=tuple(torch.full(shape, -1.0 - pin) for pin in range(num_pins)),
    )


def tiny_plan(
    lengths: Sequence[int], budget: int, policy: str | ContextPolicy = "theatre", *, pins: Sequence[int] = ()
) -> ContextPlan:
    """The context of the shot after shots of these lengths, pictures pinned to some."""
    memories = [
        tiny_memory(shot_index, num_frames, budget, num_pins=pins.count(shot_index))
        for shot_index, num_frames in enumerate(lengths)
    ]
    candidates = [
        candidate for index, memory in enumerate(memories) for candidate in memory.candidates(index)
    ]
    following = NextShot(index=len(memories), caption="next", match=older_is_better)
    return choose_context(candidates, following, budget, policy)


def older_is_better(compares: Comparison, candidates: Sequence[ContextCandidate]) -> list[Match]:
    """Matches for policies that compare: the older a shot, the better."""
    del compares
    return [Match(score=-float(candidate.shot_index)) for candidate in candidates]


def tiny_text(config: DiTConfig, batch: int = 1, num_captions: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, num_captions, config.text_length, config.text_dim, generator=generator)


WORDS = ("a", "fox", "walks", "sleeps", "forest", "night", "owl", "flies")


def tiny_pipeline(
    policy: str = "theatre",
    *,
    num_context_frames: int = 3,
    num_heads: int = 2,
    seed: int = 0,
    group: InferenceGroup | None = None,
    overlap: bool = False,
    reads: bool = False,
    rules: StudentRules | None = None,
) -> StreamingPipeline:
    """Theatre classes with random weights at 32x48 pixels; heads are 12 wide.

    With `reads` its text encoder is the theatre's own, which reads English; else it knows only `WORDS`. With
    `rules` it is a student without a context; its policy is then "none".
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        palette = torch.randint(0, 256, (16, 3), dtype=torch.uint8)
        codec_config = PatchCodecConfig(num_colours=16, latent_channels=4, dim=8, colour_dim=4)
        codec = PatchCodec(codec_config, palette).eval().requires_grad_(False)
        words = WordEncoder(WordEncoderConfig(words=WORDS, dim=8, num_layers=1, num_heads=2, text_length=6))
        reader = CaptionEncoder(CaptionEncoderConfig(dim=8))
    budget = num_context_frames if rules is None else 0
    sizes = {"num_heads": num_heads, "dim": 12 * num_heads, "num_context_frames": budget}
    dit = tiny_dit(tiny_config(text_dim=8, text_length=len(QUESTIONS) if reads else 6, **sizes), seed)
    config = PipelineConfig(
        family="theatre",
        model_id="tiny",
        fps=12,
        pixel_size=PixelSize(32, 48),
        num_chunks=2,
        context_policy=policy if rules is None else "none",
        student_steps=STUDENT_STEPS if rules is None else rules.steps,
        shift=8.0 if rules is None else rules.shift,
        rules=rules,
    )
    return StreamingPipeline(
        config,
        dit.requires_grad_(False),
        codec,
        (reader if reads else words).eval().requires_grad_(False),
        weights_sha256=f"{seed:064}",
        choice=Choice(dtype=torch.float32, inference_options=InferenceOptions(overlap_chunks=overlap)),
        group=group,
    )
