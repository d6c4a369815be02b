"""The request for one shot: all inputs of its generation, except the model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from jaxtyping import Float
from torch import Tensor

from shotstream.story import MAX_SEED, Reference, ShotCaptions, Steer
from shotstream.streaming.conditioning import TextFunction
from shotstream.streaming.references import EncodedReference, cite, cite_all, cited, is_for
from shotstream.streaming.saved_session import Pin, Take
from shotstream.streaming.shot_memory import ShotMemory
from shotstream.streaming.steering import Steering


@dataclass(frozen=True, kw_only=True, slots=True)
class ShotRequest:
    """The inputs of a shot that is to be generated, except the model."""

    global_caption: str
    """Caption of all shots."""
    caption: str
    """Caption of this shot."""
    seed: int
    """Seed of its noise."""
    num_steps: int
    """Number of denoising steps per chunk."""
    num_chunks: int
    """Length in chunks."""
    takes: tuple[Take, ...]
    """The takes of the earlier shots."""
    pins: tuple[Pin, ...]
    """The pinned pictures."""
    policy: str | None = None
    """Name of the policy that chooses its context; None: the model's."""
    references: tuple[EncodedReference, ...] = ()
    """The film's references, of which this shot sees those that are for it."""
    then: tuple[Steer, ...] = ()
    """Captions that it gets while it runs, as planned; `steering` takes more of them meanwhile."""
    steering: Steering = field(init=False, compare=False)
    """The captions that it gets while it runs."""

    def __post_init__(self) -> None:
        for caption in (self.global_caption, self.caption):
            if not caption.strip():
                raise ValueError("a caption is empty; describe what the shot shows")
        if not 0 <= self.seed <= MAX_SEED:
            raise ValueError(f"seed {self.seed}; allowed are 0 to {MAX_SEED}")
        if self.num_chunks < 1 or self.num_steps < 1:
            raise ValueError(
                f"{self.num_chunks} chunks of {self.num_steps} steps; a shot has at least 1 of both"
            )
        for pin in self.pins:
            if not 0 <= pin.shot_index < len(self.takes):
                raise ValueError(
                    f"a frame is pinned to shot {pin.shot_index}; there are {len(self.takes)} before this "
                    "one, counted from 0"
                )
        for caption in (self.global_caption, self.caption, *(steer.caption for steer in self.then)):
            cite(caption, self.told_references)
        object.__setattr__(self, "steering", Steering(self.num_chunks, self.then))

    @property
    def film_seed(self) -> int:
        """The seed of the film's first shot, which chooses what captions leave open in all of them."""
        return self.takes[0].seed if self.takes else self.seed

    @property
    def memories(self) -> list[ShotMemory]:
        """The memories of the earlier shots, with the pictures pinned to each."""
        memories: list[ShotMemory] = list(self.takes)
        for pin in self.pins:
            memory = memories[pin.shot_index]
            memories[pin.shot_index] = replace(memory, pinned=(*memory.pinned, pin.latent))
        return memories

    @property
    def references_here(self) -> list[EncodedReference]:
        """The references that this shot sees."""
        told = " ".join((self.global_caption, self.caption, *(steer.caption for steer in self.then)))
        return [one for one in self.references if is_for(one.reference, len(self.takes), told)]

    def refuse_unseen(self, caption: str) -> None:
        """Raises ValueError if a caption cites a reference that the shot does not see.

        What a shot sees is chosen at its start, by the captions that it has then.
        """
        here = {one.reference.id for one in self.references_here}
        if unseen := next((name for name in cited(caption) if name not in here), None):
            raise ValueError(f"this shot does not see @{unseen}; cut to a new shot that cites it")

    @property
    def told_references(self) -> list[Reference]:
        """The film's references, without their latents."""
        return [one.reference for one in self.references]

    def text_function(self, compose: Callable[[str, Sequence[ShotCaptions], int], str]) -> TextFunction:
        """Returns the function from the captions of this film's shots to the text of the last of them.

        `compose` is that of a pipeline; it gets captions that cite no reference.
        """

        def text_of(captions: Sequence[ShotCaptions]) -> str:
            told = [cite_all(one, self.told_references) for one in captions]
            return compose(cite(self.global_caption, self.told_references), told, self.film_seed)

        return text_of

    def take(
        self,
        *,
        num_chunks: int,
        num_frames: int,
        candidate_frames: tuple[int, ...],
        later_captions: tuple[tuple[int, str], ...],
        latents: Float[Tensor, "k z h w"],
        keep_s: float,
    ) -> Take:
        """Returns the take that was generated, which may be shorter than requested."""
        return Take(
            caption=self.caption,
            seed=self.seed,
            num_steps=self.num_steps,
            num_chunks=num_chunks,
            num_frames=num_frames,
            candidate_frames=candidate_frames,
            later_captions=later_captions,
            latents=latents,
            then=self.steering.until(num_chunks),
            keep_s=keep_s,
        )
