"""The memory of a finished shot: latents of the few frames that later shots may use as context.

Sessions, films of teachers, training on a student's own films and training on stored clips all use this one
form. It offers candidates; a policy of `context_sampling` chooses among them, and `condition_next_shot` of
`conditioning` turns the choice into inputs of the network.
"""

from dataclasses import dataclass, field, replace
from functools import partial

from jaxtyping import Float
from torch import Tensor

from shotstream.story import ShotCaptions
from shotstream.streaming.context_candidates import ContextCandidate, frame_candidates


@dataclass(frozen=True, kw_only=True, slots=True)
class ShotMemory:
    """The memory of one finished shot, for later shots."""

    caption: str
    """The shot's own caption, before it is composed with the global one."""
    later_captions: tuple[tuple[int, str], ...] = ()
    """Captions that the shot got while it ran, each with the first video frame that shows it."""
    num_frames: int
    """Length of the shot in video frames."""
    candidate_frames: tuple[int, ...]
    """Indices of the video frames that a later shot may have in its context, from 0."""
    latents: Float[Tensor, "k z h w"] = field(repr=False)
    """Normalised latents of these frames, each encoded alone; on the CPU."""
    pinned: tuple[Float[Tensor, "z h w"], ...] = field(default=(), repr=False)
    """Latents of pinned pictures that count as frames of this shot and must be in every context."""

    def __post_init__(self) -> None:
        if len(self.candidate_frames) != len(self.latents):
            raise ValueError(
                f"{len(self.candidate_frames)} candidate frames with {len(self.latents)} latents"
            )

    @property
    def captions(self) -> tuple[str, ...]:
        """All captions of the shot, in the order of its frames."""
        return (self.caption, *(caption for _, caption in self.later_captions))

    @property
    def told(self) -> ShotCaptions:
        """Its caption, or all of them if it has several."""
        return self.captions if self.later_captions else self.caption

    def caption_index_of(self, frame_index: int) -> int:
        """Returns the index among `captions` of the caption of a video frame."""
        return sum(first <= frame_index for first, _ in self.later_captions)

    def latent_of(self, frame_index: int) -> Float[Tensor, "z h w"]:
        """Returns the latent of a candidate frame."""
        return self.latents[self.candidate_frames.index(frame_index)]

    def candidates(self, shot_index: int) -> list[ContextCandidate]:
        """Returns the candidates for the context of a later shot.

        `shot_index` is the index of this shot in the film.
        """
        pinned = [
            ContextCandidate(
                shot_index=shot_index,
                frame_index=None,
                pin_index=pin_index,
                shot_num_frames=self.num_frames,
                caption=self.caption,
                latent=partial(self.pinned.__getitem__, pin_index),
            )
            for pin_index in range(len(self.pinned))
        ]
        frames = frame_candidates(
            shot_index, self.num_frames, self.candidate_frames, self.latent_of, caption=self.caption
        )
        return [*pinned, *(self._as_told(frame) for frame in frames)]

    def _as_told(self, frame: ContextCandidate) -> ContextCandidate:
        """Returns a frame of this shot with the caption that it has since the shot was steered to it."""
        assert frame.frame_index is not None
        index = self.caption_index_of(frame.frame_index)
        return replace(frame, caption=self.captions[index], caption_index=index) if index else frame
