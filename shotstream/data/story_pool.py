"""A pool of theatre stories as training data: rendered, encoded once, kept in memory, and replaced over time.

Story i is a pure function of (seed, i), and the stories in the pool at a step are a pure function of the
step, so a resumed run gets the same data in the same order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import inf

import numpy as np
import torch
from torch import Tensor

from shotstream.data.batches import ShotBatch, dropped
from shotstream.data.checks import require_within
from shotstream.data.rng import numpy_rng
from shotstream.data.story_latents import StoryLatents, encode_references, encode_story
from shotstream.geometry import LatentSize
from shotstream.model.config import DiTConfig
from shotstream.streaming.conditioning import (
    ConditionedShot,
    Conditioning,
    condition_next_shot,
    stack_conditioning,
)
from shotstream.streaming.pipeline_config import family_caption
from shotstream.streaming.shot_memory import ShotMemory
from shotstream.theatre.world import sample_story, with_turns
from shotstream.vae.codec import Codec


@dataclass(frozen=True, kw_only=True, slots=True)
class StoryPoolConfig:
    """Configuration of a pool: its stories, how fast they are replaced, and how batches are drawn."""

    seed: int = 0
    """Seed of the stories, at least 0."""
    batch_size: int = 16
    """Number of shots per step, over all processes, at least 1."""
    block_stories: int = 64
    """Number of stories that are rendered and replaced together, at least 1."""
    num_blocks: int = 16
    """Number of blocks in the pool, at least 1."""
    steps_per_block: int = 50
    """Number of training steps after which the oldest block is replaced, at least 1."""
    num_shots: tuple[int, ...] = (2, 3, 5, 7)
    """Possible numbers of shots of a story, each at least 1, chosen uniformly."""
    num_latent_frames: tuple[int, ...] = (3, 6, 9)
    """Possible lengths of a shot in latent frames, each at least 1, chosen uniformly."""
    shot_weights: tuple[float, ...] = (0.3, 0.25, 0.2, 0.1, 0.1, 0.0, 0.05)
    """Relative frequencies, at least 0, with which a step's target is the first, second, ... shot of its
    stories.
    """
    pair_share: float = 0.3
    """Share of the samples, in [0, 1], that are drawn only from shots with two actors, which are rare, and in
    which a model learns last which actor is which. Other samples are drawn from all shots.
    """
    context_drop: float = 0.1
    """Probability, in [0, 1], that a later shot is conditioned like a first one, without context."""
    caption_drop: float = 0.0
    """Probability, in [0, 1], that a sample's captions are empty: the unconditional case of guidance."""
    turn_share: float = 0.0
    """Probability, in [0, 1], that the actors of a shot of several chunks turn to something else in it."""
    reference_share: float = 0.0
    """Probability, in [0, 1], that a sample has references: pictures of its actors, its set, or both."""

    def __post_init__(self) -> None:
        require_within(self, 0, inf, ("seed", "shot_weights"))
        shares = ("pair_share", "context_drop", "caption_drop", "turn_share", "reference_share")
        require_within(self, 0, 1, shares)
        counts = ("batch_size", "block_stories", "num_blocks", "steps_per_block")
        require_within(self, 1, inf, (*counts, "num_shots", "num_latent_frames"))
        require_shot_weights(self.shot_weights)


def require_shot_weights(weights: tuple[float, ...]) -> None:
    """Raises ValueError unless `weights` can be used as relative frequencies."""
    if not 0 < sum(weights) < inf:
        raise ValueError(f"shot_weights is {weights!r}; one must be above 0, and all finite")


class StoryPool:
    """A `DataSource` of shots of theatre stories."""

    def __init__(
        self, config: StoryPoolConfig, codec: Codec, dit: DiTConfig, policy: str, *, seed: int
    ) -> None:
        """Creates a pool; nothing is rendered yet.

        Args:
            config: Configuration of the pool.
            codec: The codec that encodes the stories, on the CPU.
            dit: The transformer that is trained on them.
            policy: The context policy.
            seed: Seed of the random choices in batches.
        """
        self.config, self.codec, self.dit, self.seed = config, codec, dit, seed
        self.policy: str = policy
        self._blocks: dict[int, list[StoryLatents]] = {}

    def batch(self, step: int, samples: range) -> ShotBatch:
        """Returns shots of one length and one index in their stories, with their context."""
        return draw_shots(self.stories(step), self, step, samples)

    def stories(self, step: int) -> list[StoryLatents]:
        """Returns the stories in the pool at a step; renders those that are missing."""
        last = self.config.num_blocks + step // self.config.steps_per_block
        wanted = range(last - self.config.num_blocks, last)
        self._blocks = {index: self._blocks[index] for index in wanted if index in self._blocks}
        for index in wanted:
            if index not in self._blocks:
                self._blocks[index] = self._block(index)
        return [story for index in wanted for story in self._blocks[index]]

    def _block(self, index: int) -> list[StoryLatents]:
        first = index * self.config.block_stories
        stories = []
        for number in range(first, first + self.config.block_stories):
            rng = np.random.default_rng((self.config.seed, number))
            story = sample_story(rng, int(rng.choice(self.config.num_shots)))
            lengths = [1 + 4 * (int(rng.choice(self.config.num_latent_frames)) - 1) for _ in story.shots]
            story = with_turns(story, lengths, rng, share=self.config.turn_share)
            encoded = encode_story(self.codec, story, lengths, self.dit.num_context_frames)
            if self.config.reference_share:
                encoded = encode_references(self.codec, encoded, rng)
            stories.append(encoded)
        return stories


def draw_shots(stories: Sequence[StoryLatents], pool: StoryPool, step: int, samples: range) -> ShotBatch:
    """Returns a batch of shots, drawn from `stories` as a pool draws from its own.

    Random choices for the whole batch are keyed by seed and step; those for a sample by the sample as well.

    Raises:
        ValueError: No story has a shot of the length that was drawn.
    """
    config = pool.config
    rng = numpy_rng(pool.seed, "shots", step)
    length = int(rng.choice(config.num_latent_frames))
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
        rng = numpy_rng(pool.seed, "shot", step, sample)
        drawn = pairs if pairs and rng.random() < config.pair_share else eligible[index]
        story = drawn[int(rng.integers(len(drawn)))]
        # Held-out stories have no pictures; neither have those of recipes without references.
        has_references = bool(story.actor_references) and rng.random() < config.reference_share
        references = _references(story, index, rng) if has_references else []
        x0.append(story.shots[index].target[:, :length].float())
        figures.append(story.shots[index].figures[:length])
        conditioning, rows = dropped(
            *condition_story_shot(
                story, index, pool.dit, pool.policy, rng, num_latent_frames=length, references=references
            ),
            rng,
            has_context=index > 0 or bool(references),
            context_drop=config.context_drop,
            caption_drop=config.caption_drop,
        )
        conditionings.append(conditioning)
        captions.append(rows)
    return ShotBatch(
        torch.stack(x0), torch.stack(figures), stack_conditioning(conditionings), captions, samples
    )


def _references(story: StoryLatents, index: int, rng: np.random.Generator) -> list[ShotMemory]:
    """Returns references for a shot: its actors, its set, or both, in any order."""
    shot, cast = story.story.shots[index], story.story.cast
    actors = [story.actor_references[cast.index(one.actor)] for one in shot.performances]
    which = rng.random()
    chosen = actors if which < 0.4 else [story.place_references[index]]
    chosen = [*actors, *chosen] if which > 0.6 else chosen
    return [chosen[int(place)] for place in rng.permutation(len(chosen))]


def condition_story_shot(
    story: StoryLatents,
    index: int,
    config: DiTConfig,
    policy: str,
    rng: np.random.Generator | None = None,
    *,
    num_latent_frames: int | None = None,
    references: Sequence[ShotMemory] = (),
) -> ConditionedShot:
    """Returns the conditioning of shot `index` of a story on its earlier shots, and its caption rows.

    Args:
        story: The story.
        index: Index of the shot.
        config: Sizes of the transformer.
        policy: The context policy.
        rng: Generator for the policy.
        num_latent_frames: Number of latent frames of the shot that are used; None: all.
        references: Reference pictures, as memories of virtual shots.
    """
    memories, own = [shot.memory for shot in story.shots], story.shots[index]
    length = own.target.shape[1] if num_latent_frames is None else num_latent_frames
    turns = 0 < own.turn_frame < length
    return condition_next_shot(
        memories[:index],
        memories[index].captions if turns else memories[index].caption,
        config,
        LatentSize(*own.target.shape[-2:]),
        policy,
        turn_frame=own.turn_frame if turns else 0,
        references=references,
        text_of=partial(family_caption, "theatre", story.story.global_caption),
        rng=rng,
    )
