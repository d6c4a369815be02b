"""Trains the theatre's teacher: flow matching on next shots, with context frames and a caption per shot.

A share of the steps trains the same weights causally: each chunk has its own noise level, earlier chunks are
often clean (as in streaming), and the causal mask hides the future. So one set of weights is the
bidirectional teacher and the causal one from which a few-step student is made without a gap (the causal
initialisation of Causal Forcing, arXiv 2602.02214). A text encoder that was not trained before (by
`reader.py`) is trained here and frozen afterwards.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, get_args, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from shotstream.codec.codec import Codec
from shotstream.codec.word_encoder import WordEncoder, WordEncoderConfig
from shotstream.data.captions import StoredText, StoredTextConfig
from shotstream.data.checks import require_decay, require_positive, require_within
from shotstream.data.latents import LatentPool, PoolConfig, StoryLatents
from shotstream.data.source import ShardsConfig, ShardSource, ShotSample, condition_sample, require_fit
from shotstream.diffusion.flow import add_noise, velocity_target
from shotstream.diffusion.schedule import FlowSchedule
from shotstream.geometry import LatentSize, TokenGrid
from shotstream.losses.flow_matching import flow_matching_loss
from shotstream.model.causal_mask import CausalMask, MaskForm
from shotstream.model.config import DiTConfig
from shotstream.model.dit import DiT
from shotstream.story import compose_caption
from shotstream.streaming.conditioning import (
    ConditionedShot,
    Conditioning,
    condition_next_shot,
    drop_context,
    full_pass,
    stack_conditioning,
    target_part,
)
from shotstream.streaming.context_sampling import PolicyName
from shotstream.training.ema import Ema
from shotstream.training.keys import draws, onto, sample_noise, tensor_draws
from shotstream.training.optimisers import ClippedAdamW, MuonAdamW
from shotstream.training.parallelize import Execution, whole_state
from shotstream.training.precision import MatmulDtype, multiplying, require_matmul_dtype
from shotstream.training.rates import rate_factor
from shotstream.training.start import begin_at


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherTraining:
    """The recipe of a theatre teacher."""

    dit: DiTConfig
    """Sizes of the transformer."""
    text: WordEncoderConfig | StoredTextConfig
    """Sizes and words of the text encoder, which is learnt along if it has no questions; of shards, the
    captions that they hold."""
    pool: PoolConfig | ShardsConfig
    """The stories that batches are drawn from: rendered as training goes on, or encoded beforehand."""
    num_steps: int
    """Steps of the run, which a recipe gives from its loop; see `rates.py`."""
    decay_steps: int
    """Steps at the end over which the learning rate falls to zero."""
    seed: int = 0
    """Of everything that is drawn."""
    batch_size: int = 16
    """Shots per step."""
    learning_rate: float = 1.5e-3
    """AdamW's; hidden matrices go to Muon, at three times it."""
    optimiser: Literal["muon", "adamw"] = "muon"
    """"adamw": AdamW without momentum for everything, as the published code has it."""
    max_norm: float = 1.0
    """Gradients are clipped to this norm."""
    start: str = ""
    """A model whose transformer the run begins at, a name or a bundle's directory; empty: random weights."""
    learns: Literal["all", "self_attention"] = "all"
    """Which parameters are trained."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises from zero."""
    shift: float = 3.0
    """Shift of the schedule that training levels are drawn from."""
    context_policy: PolicyName = "theatre"
    """How context frames are chosen from earlier shots, see `context_sampling`."""
    causal_share: float = 0.5
    """Share of the steps trained with the causal mask and a level per chunk."""
    clean_history: float = 0.5
    """Chance that an earlier chunk is clean in a causal step."""
    shot_weights: tuple[float, ...] = (0.3, 0.25, 0.2, 0.1, 0.1, 0.0, 0.05)
    """How often a step's shots are the first, second, ... of their stories."""
    context_drop: float = 0.1
    """Chance that a later shot is conditioned as a first one."""
    caption_drop: float = 0.1
    """Chance that a sample's captions are empty: what guidance calls unconditional."""
    figure_share: float = 0.5
    """Share of the loss that cells showing an actor have. In a wide shot these are a tenth of all: with equal
    weights they are learnt last. The optimum is the same."""
    max_figure_weight: float = 8.0
    """Most that one such cell may weigh."""
    pair_share: float = 0.3
    """Share of the samples drawn from shots with two actors alone, which are rare and where who is what is
    learnt last. The others are drawn from all shots."""
    ema_decay: float = 0.9995
    """Decay per step of the averaged weights, which are what is used afterwards."""
    matmul_dtype: MatmulDtype = "auto"
    """What linear layers compute in; "auto" is bfloat16 where the device multiplies it faster."""

    def __post_init__(self) -> None:
        require_within(self, 0, inf, ("seed", "shot_weights"))
        require_within(self, 1, inf, ("num_steps", "decay_steps", "batch_size", "warmup_steps"))
        require_within(
            self,
            0,
            1,
            ("causal_share", "clean_history", "context_drop", "caption_drop", "figure_share", "pair_share"),
        )
        require_positive(self, ("learning_rate", "max_norm", "shift", "max_figure_weight"))
        for name, known in (("optimiser", ("muon", "adamw")), ("learns", ("all", "self_attention"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; give {' or '.join(known)}")
        if isinstance(self.pool, ShardsConfig):
            object.__setattr__(self, "text", StoredTextConfig(directory=self.pool.directory))
        elif isinstance(self.text, StoredTextConfig):
            raise ValueError("text is stored with shards, and the stories are rendered; name shards as pool")
        if self.context_policy not in (known := get_args(PolicyName)):
            raise ValueError(f"unknown context policy {self.context_policy!r}; known: {', '.join(known)}")
        require_matmul_dtype(self.matmul_dtype)
        require_decay(self, ("ema_decay",))
        if not 0 < sum(self.shot_weights) < inf:
            raise ValueError(f"shot_weights is {self.shot_weights!r}; one must be above 0, and all finite")

    def rate(self, step: int) -> float:
        """Share of the peak learning rate at a step; see `rates.py`."""
        return rate_factor(
            step, num_steps=self.num_steps, warmup_steps=self.warmup_steps, decay_steps=self.decay_steps
        )


class Batch(NamedTuple):
    """Shots to learn from, all of one length."""

    x0: Float[Tensor, "b z f h w"]
    figures: Bool[Tensor, "b f h w"]
    """Which cells show an actor."""
    conditioning: Conditioning
    captions: list[list[str]]
    """The caption rows of each sample."""
    samples: range
    """Which samples of the effective batch these are."""


class TheatreModel(nn.Module):
    """The transformer with its text encoder."""

    def __init__(self, dit: DiTConfig, text: WordEncoderConfig | StoredTextConfig) -> None:
        super().__init__()
        self.dit = DiT(dit)
        self.text = WordEncoder(text) if isinstance(text, WordEncoderConfig) else StoredText(text)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.dit.patch_embedding.weight.device

    def embed(self, captions: Sequence[Sequence[str]]) -> Float[Tensor, "b s n d"]:
        """Embeddings of each sample's captions, padded with empty ones to the same number; with gradients."""
        rows = max(len(sample) for sample in captions)
        flat = [caption for sample in captions for caption in (*sample, *[""] * (rows - len(sample)))]
        unique = list(dict.fromkeys(flat))
        if isinstance(self.text, StoredText):
            embedded = onto(self.text.embed(unique), self.device)
        else:
            embedded = self.text(self.text.tokenize(unique).to(self.device))
        order = torch.tensor([unique.index(caption) for caption in flat], device=self.device)
        return embedded[order].unflatten(0, (len(captions), rows))


class TeacherStage:
    """A `Stage` that trains a `TheatreModel`."""

    def __init__(
        self,
        config: TeacherTraining,
        pool: "LatentPool | ShotSource",
        device: torch.device | str = "cpu",
        execution: Execution | None = None,
        reader: WordEncoder | None = None,
    ) -> None:
        """The model lives on `device`, what the `pool` gives on the CPU.

        A `reader` is the trained text encoder of a model whose captions are read for questions; it stays as
        it is.
        """
        torch.manual_seed(config.seed)  # the initial weights
        self.config, self.execution = config, execution or Execution()
        self.execution.shares(config.batch_size)
        self.device = torch.device(device)
        self.schedule = FlowSchedule(shift=config.shift)
        self.model = TheatreModel(config.dit, config.text).to(self.device)
        if config.start:
            begin_at(self.model.dit, config.start)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(config.learns == "all" or ".self_attn." in name)
        if reader is not None:
            self.model.text.load_state_dict(reader.state_dict())
            self.model.text.requires_grad_(False)
        self.execution.parallelize(self.model.dit)
        if isinstance(self.model.text, WordEncoder):
            self.execution.shard(self.model.text)
        self.ema = Ema(self.model, config.ema_decay)
        self.pool = pool
        self.optimiser = _optimiser(config, self.model)

    @property
    def batch_size(self) -> int:
        """Samples of a step."""
        return self.config.batch_size

    def step(self, step: int) -> Mapping[str, float]:
        """One step; see `Stage.step`."""
        stories, causal = self.pool.at(step), self._causal(step)

        def loss_of(samples: range) -> Tensor:
            batch = draw_batch(stories, self.config, step, samples=samples)
            return self.loss(self.model, batch, step, causal=causal)

        loss = self.execution.backward(self.batch_size, loss_of, "teacher's", step)
        norm = self.optimiser.step(self.config.rate(step))
        self.ema.update(self.model)
        return {"loss": loss, "causal_loss" if causal else "full_loss": loss, "norm": norm.item()}

    def inputs(self, step: int) -> dict[str, Any]:
        """This process's batches of a step, as latents, captions and levels."""
        stories, found = self.pool.at(step), []
        for samples in self.execution.shares(self.batch_size):
            batch = draw_batch(stories, self.config, step, samples=samples)
            sigma, _ = self._levels(step, batch.x0.shape[2], self._causal(step))
            found.append(
                {
                    "x0": batch.x0,
                    "context": batch.conditioning.context,
                    "captions": batch.captions,
                    "sigma": sigma[list(samples)],
                    "samples": list(samples),
                }
            )
        return {"causal": self._causal(step), "batches": found}

    def _causal(self, step: int) -> bool:
        return bool(draws(self.config.seed, "teacher/mask", step).random() < self.config.causal_share)

    def loss(self, model: TheatreModel, batch: Batch, step: int, *, causal: bool) -> Float[Tensor, ""]:
        """The mean squared error of the velocity over frames that carry noise, in float32.

        The mean is over the effective batch: means over parts of it average to it, though the parts differ
        in how many of their frames carry noise.

        Args:
            model: what to ask.
            batch: some of the effective batch.
            step: keys noise and levels, with each sample's place in the batch.
            causal: whether chunks have levels of their own and do not see what follows them.
        """
        f, chosen = batch.x0.shape[2], list(batch.samples)
        sigma, noisy_frames = self._levels(step, f, causal)
        counted = noisy_frames.float() / noisy_frames.float().mean()
        sigma, counted = sigma[chosen], counted[chosen]
        shape = batch.x0.shape[1:]
        noise = sample_noise(shape, self.config.seed, "teacher/noise", (step,), batch.samples)
        x0, noise, sigma = (onto(value, self.device) for value in (batch.x0, noise, sigma))
        conditioning = batch.conditioning.to(self.device)
        inputs = full_pass(conditioning, add_noise(x0, noise, sigma), sigma, self.config.dit)
        mask = shot_mask(x0, self.config.dit) if causal else None
        text = model.embed(batch.captions)
        with multiplying(self.config.matmul_dtype, self.device):
            velocity = model.dit(inputs.x, inputs.sigma, text, inputs.positions, mask=mask)
        return flow_matching_loss(
            target_part(velocity, self.config.dit),
            velocity_target(x0, noise),
            frame_weight=onto(counted, self.device),
            cell_weight=onto(self._cell_weight(batch.figures), self.device),
        )

    def _cell_weight(self, figures: Bool[Tensor, "b f h w"]) -> Float[Tensor, "b f h w"]:
        """The weight of each cell in the loss; about one on average."""
        share = figures.float().mean(dim=(1, 2, 3), keepdim=True)
        figure = (self.config.figure_share / share).clamp(max=self.config.max_figure_weight)
        rest = (1 - share * figure) / (1 - share).clamp(min=1e-6)
        return torch.where(figures, figure, rest)

    def _levels(self, step: int, f: int, causal: bool) -> tuple[Tensor, Tensor]:
        """A level per frame `[b, f]` of the whole effective batch, and which frames carry noise."""
        size = self.config.dit.chunk_latent_frames
        chunks = -(-f // size)
        sigmas: list[Tensor] = []
        for sample in range(self.batch_size):
            generator = tensor_draws(self.config.seed, "teacher/levels", step, sample)
            sigma = self.schedule.sample_training_sigma(generator, (chunks if causal else 1,))
            if causal:
                clean = torch.rand(chunks, generator=generator) < self.config.clean_history
                clean[-1] = False
                sigma = torch.where(clean, 0.0, sigma).repeat_interleave(size)[:f]
            sigmas.append(sigma.expand(f))
        levels = torch.stack(sigmas)
        return levels, levels > 0

    def averaged(self) -> TheatreModel:
        """The model with averaged weights, in eval mode."""
        model = TheatreModel(self.config.dit, self.config.text).to(self.device)
        model.load_state_dict(whole_state(self.model.state_dict()))
        self.ema.copy_to(model)
        return model.eval()

    def preview(self, step: int, directory: Path) -> Mapping[str, float]:
        """Shots of held-out stories beside their truth, and the held-out loss; see `previews.py`."""
        from shotstream.training.previews import preview_teacher

        if not isinstance(self.pool, LatentPool):
            return {}  # held-out stories are the theatre's
        model = self.averaged()
        return preview_teacher(self, model, step, directory) if self.execution.world.leads else {}

    def prime(self) -> None:
        """See `Stage.prime`."""
        self.optimiser.prime()

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on."""
        return {
            "weights": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "ema": self.ema.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from `state_dict`."""
        self.model.load_state_dict(state["weights"])
        self.ema.load_state_dict(state["ema"])
        if "optimiser" in state:
            self.optimiser.load_state_dict(state["optimiser"])


def token_grid(latents: Float[Tensor, "b z f h w"], config: DiTConfig) -> TokenGrid:
    """Tokens of a latent frame."""
    size = LatentSize(*latents.shape[-2:])
    return TokenGrid(size.height // config.patch_size, size.width // config.patch_size)


def shot_mask(shot: Float[Tensor, "b z f h w"], config: DiTConfig) -> CausalMask:
    """The causal rule over the context and a shot, in the form that its device computes fastest."""
    form = mask_form(shot.device, config)
    return CausalMask.for_shot(config, token_grid(shot, config), shot.shape[2], form=form)


def mask_form(device: torch.device, config: DiTConfig) -> MaskForm:
    """FlexAttention's blocks on a GPU; for narrower heads than its kernel takes, and on a CPU, slices."""
    return "block" if device.type == "cuda" and config.head_dim >= 16 else "slices"


def _optimiser(config: TeacherTraining, model: TheatreModel) -> MuonAdamW | ClippedAdamW:
    if config.optimiser == "adamw":
        return ClippedAdamW(model.parameters(), config.learning_rate, config.max_norm)
    return MuonAdamW(
        model.named_parameters(),
        learning_rate=config.learning_rate,
        max_norm=config.max_norm,
        adamw_names=("head", "text.embedding", "position", "dit.text_embedding", "time_embedding"),
    )


@runtime_checkable
class ShotSource(Protocol):
    """What gives stored shots, as `ShardSource` does."""

    def at(self, step: int) -> "ShotSource":
        """What the batch of a step is drawn from."""
        ...

    def read(self, step: int, rows: range | None = None) -> list[ShotSample]:
        """The shots of a step, all of one length, those of `rows` of the batch alone; None: all of them."""
        ...


def open_pool(config: TeacherTraining, codec: Codec | None) -> LatentPool | ShardSource:
    """What the batches of a stage are drawn from.

    Raises:
        ValueError: the shards are not there, damaged beyond what is allowed, or of another model.
    """
    if isinstance(config.pool, PoolConfig):
        assert codec is not None, "stories are rendered, and a codec must encode them"
        return LatentPool(codec, config.pool)
    source = ShardSource(config.pool, config.batch_size)
    require_fit(source.form, config.dit, config.pool.directory)
    return source


def draw_batch(
    stories: Sequence[StoryLatents] | ShotSource,
    config: TeacherTraining,
    step: int,
    *,
    samples: range | None = None,
    keep_captions: bool = False,
) -> Batch:
    """The batch of a step: shots of one length and one place in their stories, with the context these give.

    Args:
        stories: what to draw from; shards have an order of their own, and their shots their own places.
        config: lengths, places and chances.
        step: what the batch shares is keyed by it and the seed; what a sample has for itself, by the
            sample too.
        samples: which of the batch; None: all.
        keep_captions: never empty a sample's captions.
    """
    samples = range(config.batch_size) if samples is None else samples
    if not isinstance(stories, Sequence):
        return _stored_batch(stories, config, step, samples, keep_captions=keep_captions)
    assert isinstance(config.pool, PoolConfig)
    rng = draws(config.seed, "shots", step)
    length = int(rng.choice(config.pool.num_latent_frames))
    eligible = [
        [story for story in stories if len(story.shots) > i and story.shots[i].target.shape[1] >= length]
        for i in range(len(config.shot_weights))
    ]
    weights = np.array([w if found else 0.0 for w, found in zip(config.shot_weights, eligible, strict=True)])
    if not weights.any():
        raise ValueError(f"no story of the pool has a shot of {length} latent frames; make the pool larger")
    index = int(rng.choice(len(weights), p=weights / weights.sum()))
    pairs = [story for story in eligible[index] if len(story.story.shots[index].performances) > 1]
    x0: list[Tensor] = []
    figures: list[Tensor] = []
    conditionings: list[Conditioning] = []
    captions: list[list[str]] = []
    for sample in samples:
        rng = draws(config.seed, "shot", step, sample)
        drawn = pairs if pairs and rng.random() < config.pair_share else eligible[index]
        story = drawn[int(rng.integers(len(drawn)))]
        x0.append(story.shots[index].target[:, :length].float())
        figures.append(story.shots[index].figures[:length])
        conditioning, rows = _dropped(
            *condition(story, index, config, rng), index > 0, config, rng, keep_captions=keep_captions
        )
        conditionings.append(conditioning)
        captions.append(rows)
    return Batch(torch.stack(x0), torch.stack(figures), stack_conditioning(conditionings), captions, samples)


def _stored_batch(
    source: ShotSource, config: TeacherTraining, step: int, samples: range, *, keep_captions: bool
) -> Batch:
    """The batch of a step out of shards; nothing is known of who is where in a picture."""
    conditionings: list[Conditioning] = []
    captions: list[list[str]] = []
    stored = source.read(step, samples)
    for sample, one in zip(samples, stored, strict=True):
        rng = draws(config.seed, "shot", step, sample)
        conditioning, rows = condition_sample(one, config.dit, config.context_policy, rng)
        conditioning, rows = _dropped(
            conditioning, rows, bool(one.past), config, rng, keep_captions=keep_captions
        )
        conditionings.append(conditioning)
        captions.append(rows)
    x0 = torch.stack([one.latents.float() for one in stored])
    figures = torch.zeros_like(x0[:, 0], dtype=torch.bool)
    return Batch(x0, figures, stack_conditioning(conditionings), captions, samples)


def _dropped(
    conditioning: Conditioning,
    rows: list[str],
    has_context: bool,
    config: TeacherTraining,
    rng: np.random.Generator,
    *,
    keep_captions: bool,
) -> tuple[Conditioning, list[str]]:
    """A sample's conditioning and captions, by chance without its context, or with empty captions."""
    if has_context and rng.random() < config.context_drop:
        conditioning = drop_context(conditioning, torch.ones(1, dtype=torch.bool))
    dropped = rng.random() < config.caption_drop and not keep_captions
    return conditioning, [""] * len(rows) if dropped else rows


def condition(
    story: StoryLatents, index: int, training: TeacherTraining, rng: np.random.Generator | None = None
) -> ConditionedShot:
    """Conditioning of shot `index` of a story on its earlier shots, and its caption rows."""
    memories = [shot.memory for shot in story.shots]
    return condition_next_shot(
        memories[:index],
        memories[index].caption,
        training.dit,
        LatentSize(*story.shots[index].target.shape[-2:]),
        training.context_policy,
        compose=partial(compose_caption, story.story.global_caption),
        rng=rng,
    )
