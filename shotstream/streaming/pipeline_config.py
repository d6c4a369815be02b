"""The configuration of a pipeline, apart from the sizes of its networks: a section of a bundle's config."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from shotstream.configs import refuse_unknown_words
from shotstream.diffusion.schedule import STUDENT_STEPS, FlowSchedule
from shotstream.geometry import PixelSize
from shotstream.sizes import refuse_sizes
from shotstream.story import CaptionStyle, FittedCaption, compose_caption, fit_caption
from shotstream.streaming.context_sampling import named_policy
from shotstream.text.text_encoder import TextEncoder

_MOST_FPS, _MOST_PIXELS = 240, 8192

Family = Literal["theatre", "wan"]

CAPTION_STYLES: Mapping[Family, CaptionStyle] = {"theatre": "plain", "wan": "published"}
"""The form of each family's captions, in training data, films and sessions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelineConfig:
    """The settings with which a model makes films, apart from the sizes of its networks."""

    family: Family
    """Which classes of codec and text encoder, and how captions are composed."""
    model_id: str
    """Name of the model, for people and replay files."""
    fps: int
    """Frames per second of its films."""
    pixel_size: PixelSize
    """Size of its frames."""
    num_chunks: int
    """Usual length of a shot, in chunks."""
    context_policy: str
    """How context frames are chosen."""
    student_steps: tuple[int, ...] = STUDENT_STEPS
    """Denoising steps that the student was trained for, of 1000 and before the schedule warps them."""
    shift: float = 8.0
    """Shift of the schedule that it was trained with."""

    def __post_init__(self) -> None:
        refuse_unknown_words(self)
        named_policy(self.context_policy)
        refuse_sizes(self, ("fps", "num_chunks"))
        refuse_sizes(self.pixel_size, ("height", "width"))
        if self.fps > _MOST_FPS or max(self.pixel_size.height, self.pixel_size.width) > _MOST_PIXELS:
            raise ValueError(
                f"{self.pixel_size.width} x {self.pixel_size.height} pixels, {self.fps} frames a second; no "
                f"model makes more than {_MOST_PIXELS} pixels a side or {_MOST_FPS} frames a second"
            )
        FlowSchedule(shift=self.shift).student_sigmas(self.student_steps)


def family_caption(family: Family, global_caption: str, caption: str, shot_index: int) -> str:
    """The text that a family's models are given for a shot, however long it is."""
    return compose_caption(global_caption, caption, shot_index, style=CAPTION_STYLES[family])


def fitted_family_caption(
    family: Family, text_encoder: TextEncoder, global_caption: str, caption: str, shot_index: int
) -> FittedCaption:
    """The same text, cut at the end of the global caption to what the text encoder takes."""
    return fit_caption(
        global_caption,
        caption,
        text_encoder.text_length,
        text_encoder.count_tokens,
        shot_index=shot_index,
        style=CAPTION_STYLES[family],
    )
