"""The configuration of a pipeline, without the sizes of its networks: a section of a bundle's config."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from shotstream.configs import config_to_document, refuse_unknown_words
from shotstream.diffusion.schedule import STUDENT_STEPS, FlowSchedule
from shotstream.geometry import PixelSize
from shotstream.model.student_rules import StudentRules
from shotstream.sizes import refuse_sizes
from shotstream.story import (
    CaptionStyle,
    FittedCaption,
    ShotCaptions,
    compose_caption,
    fit_caption,
    last_caption,
)
from shotstream.streaming.context_sampling import POLICIES_WITHOUT_CONTEXT, named_policy
from shotstream.text.text_encoder import TextEncoder
from shotstream.theatre.caption_encoder import CaptionEncoder
from shotstream.theatre.reading.reader import read_shot
from shotstream.theatre.reading.settled import SettledShot, settle, steered

_MOST_FPS, _MOST_PIXELS = 240, 8192

Family = Literal["theatre", "wan"]

CAPTION_STYLES: Mapping[Family, CaptionStyle] = {"theatre": "plain", "wan": "published"}
"""The form of each family's captions for a text encoder of words, in training data, films and sessions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelineConfig:
    """Settings of a pipeline, without the sizes of its networks."""

    family: Family
    """Family of the model: the classes of codec and text encoder, and the form of captions."""
    model_id: str
    """Name of the model, for users and replay files."""
    fps: int
    """Frames per second of the films, at least 1."""
    pixel_size: PixelSize
    """Size of a frame in pixels."""
    num_chunks: int
    """Default length of a shot in chunks, at least 1."""
    context_policy: str
    """Name of the policy that chooses context frames."""
    student_steps: tuple[int, ...] = STUDENT_STEPS
    """Timesteps that the student was trained for, of 1000 and before the schedule warps them."""
    shift: float = 8.0
    """Shift of the noise schedule that the student was trained with."""
    rules: StudentRules | None = None
    """Rules of a student without a context, with the same steps and shift; None: the model has a context."""

    def __post_init__(self) -> None:
        refuse_unknown_words(self)
        self.check_policy(self.context_policy)
        if self.rules is not None and (self.rules.steps, self.rules.shift) != (
            self.student_steps,
            self.shift,
        ):
            raise ValueError("student_steps and shift are not those of the rules")
        refuse_sizes(self, ("fps", "num_chunks"))
        refuse_sizes(self.pixel_size, ("height", "width"))
        if self.fps > _MOST_FPS or max(self.pixel_size.height, self.pixel_size.width) > _MOST_PIXELS:
            raise ValueError(
                f"{self.pixel_size.width} x {self.pixel_size.height} pixels, {self.fps} frames a second; no "
                f"model makes more than {_MOST_PIXELS} pixels a side or {_MOST_FPS} frames a second"
            )
        FlowSchedule(shift=self.shift).student_sigmas(self.student_steps)

    def check_policy(self, name: str) -> None:
        """Raises ValueError unless a context policy is one for this kind of model."""
        if self.rules is None:
            named_policy(name)
        elif name not in POLICIES_WITHOUT_CONTEXT:
            raise ValueError(
                f"{self.model_id} has no memory across shots; its context policy is "
                f"{' or '.join(POLICIES_WITHOUT_CONTEXT)}, not {name!r}"
            )

    @property
    def caption_style(self) -> CaptionStyle:
        """Form of captions for a text encoder of words: plain for models that know no shots."""
        return CAPTION_STYLES[self.family] if self.rules is None else "plain"

    def to_document(self) -> dict[str, Any]:
        """Returns the section of a bundle; without rules it has no such key, so that hashes are unchanged."""
        document = asdict(self)
        rules = document.pop("rules")
        return document if rules is None else {**document, "rules": config_to_document(self.rules)}


def family_caption(family: Family, global_caption: str, captions: Sequence[ShotCaptions]) -> str:
    """Returns the text of training data for the last of a story's captions, whatever its length.

    The theatre's captions are read, see `theatre/reading/`, and told in its own words, as in a session.
    """
    if family == "theatre":
        return read_and_settled(global_caption, captions, 0).caption
    own = last_caption(captions)
    return compose_caption(global_caption, own, len(captions) - 1, style=CAPTION_STYLES[family])


def read_and_settled(global_caption: str, captions: Sequence[ShotCaptions], seed: int) -> SettledShot:
    """Returns what the theatre shows for the last of a story's captions; `seed` chooses what is left open.

    A caption that a running shot is steered to changes what its actors do, and nothing else.
    """
    if not captions:
        raise ValueError("no caption to read; give at least one")
    *earlier, own = [(one,) if isinstance(one, str) else one for one in captions]
    told = [text for shot in earlier for text in shot]
    shown = settle(read_shot(own[0], global_caption, tuple(told)), seed)
    for index in range(1, len(own)):
        shown = steered(shown, read_shot(own[index], global_caption, (*told, *own[:index])))
    return shown


def fitted_family_caption(
    family: Family,
    text_encoder: TextEncoder,
    global_caption: str,
    captions: Sequence[ShotCaptions],
    seed: int = 0,
    *,
    style: CaptionStyle | None = None,
) -> FittedCaption:
    """Returns the text that a text encoder gets for the last of a story's captions.

    For an encoder that reads English it is the shot in the world's own words; for others the composed
    caption, with the global caption cut at its end to fit.

    Args:
        family: Family of the model.
        text_encoder: Its text encoder.
        global_caption: The caption of all shots.
        captions: The captions of the shots so far, the last one's included.
        seed: Chooses what the captions of a theatre's film leave open; one for all its shots.
        style: Form of captions for an encoder of words; None: the family's.
    """
    if isinstance(text_encoder, CaptionEncoder):
        return FittedCaption(text=read_and_settled(global_caption, captions, seed).caption)
    return fit_caption(
        global_caption,
        last_caption(captions),
        text_encoder.text_length,
        text_encoder.count_tokens,
        shot_index=len(captions) - 1,
        style=CAPTION_STYLES[family] if style is None else style,
    )
