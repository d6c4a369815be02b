"""The rules of a student: what a few-step causal network of the Wan2.1 family was trained to be run with.

The networks of these students are the same. They differ in their noise levels, in the number of frames that
are generated together, and in what a pass attends to. All of that is data here: `frame_store` reads the rules
of attention, `Rollout` those of steps and chunks.

Frames are latent frames, counted from the start of a shot. A pass over the frames [n, e) attends to

    frames 0 .. sink - 1, and frames max(sink, e - (window - sink)) .. e - 1

without a mask, whether it denoises or commits. The rules say where the sink, a bank of single frames or a
moving position differ from that.

Two defects of published code are rules here, because they are part of what a student was evaluated with, and
can be left out: `recache` "window" also rewrites the sink, with the frames before the window, as LongLive's
training does; `cut_position` moves the chunk after a cut to fixed positions, as Infinity-RoPE does for every
cut. Other defects are not reproduced.

Source: Self-Forcing (arXiv 2506.08009), CausVid (2412.07772), LongLive (2509.22622), Rolling Forcing
(2509.25161), Infinity-RoPE (2511.20649), Reward Forcing (2512.04678), MemFlow (2512.14699).
"""

from dataclasses import dataclass
from typing import Literal

from shotstream.configs import refuse_unknown_words
from shotstream.geometry import VideoGeometry
from shotstream.sizes import refuse_sizes

StepScale = Literal["warped", "timestep", "sigma"]
"""What the numbers of steps are: 1000 (1 - i / 1000) for row i of the shifted table; timesteps that the
network is told as they are, at the nearest level of that table; or 1000 times a level, without a table.
"""
RopeRule = Literal["absolute", "cache_relative", "absolute_moving_anchor"]
"""Positions of attended frames: their numbers; their places among the attended frames; or their numbers,
except that the first frames precede the others directly (and are attended to by denoise passes only).
"""
RecacheRule = Literal["none", "window", "window_keep_sink"]
"""What is computed again when captions change: nothing; the window with the sink, which becomes the oldest
frames of the window; or the window without the sink.
"""
BankRule = Literal["every_chunk", "interval"]
"""Which chunks offer their first frame to the bank: each, or the first of every `record_interval` chunks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentRules:
    """How a student is run; the size of its chunks is `DiTConfig.chunk_latent_frames`."""

    steps: tuple[int, ...]
    """Denoising steps of a chunk, from noise to data, on the scale of `step_scale`."""
    shift: float
    """Shift of the table of noise levels."""
    step_scale: StepScale = "warped"
    """Meaning of the steps."""
    first_chunk_steps: tuple[int, ...] = ()
    """Steps of the first generated chunk; empty: as all."""
    first_chunk_frames: int = 0
    """Number of frames of a shot's first chunk; 0: as all. After given frames all chunks are whole."""
    window: int
    """Number of frames that a pass attends to, including the sink and its own."""
    sink: int = 0
    """Number of first frames that stay in the window."""
    max_frames: int = 0
    """Number of frames after which positions have never been trained; 0: there is no limit."""
    rope: RopeRule = "absolute"
    """Positions of the frames that a pass attends to."""
    sink_ema: float = 1.0
    """Factor of the sink's moving average over the frames that leave the window; 1: the sink is fixed."""
    bank: int = 0
    """Number of single frames that are attended to besides the window."""
    record_interval: int = 3
    """Number of chunks per frame of the bank, until it is full."""
    bank_rule: BankRule = "every_chunk"
    """Which chunks offer a frame to the bank."""
    recache: RecacheRule = "none"
    """What is computed again when captions change within a shot."""
    cut_position: int = 0
    """Position of the first frame of the chunk after a cut within a shot; 0: there are no such cuts."""
    rolling: bool = False
    """Whether as many chunks as there are steps are denoised together, each at its own step."""

    def __post_init__(self) -> None:
        refuse_unknown_words(self)
        refuse_sizes(self, ("window", "record_interval"))
        refuse_sizes(self, ("sink", "bank", "first_chunk_frames", "max_frames", "cut_position"), least=0)
        for steps in (self.steps, self.first_chunk_steps or self.steps):
            if not steps or list(steps) != sorted(set(steps), reverse=True):
                raise ValueError(f"steps {steps} must fall strictly, from noise to data")
            if not 1 <= min(steps) <= max(steps) <= 1000:
                raise ValueError(f"steps {steps} must lie in 1..1000")
        if not self.shift > 0:
            raise ValueError(f"shift is {self.shift}; it must be above 0")
        if self.sink >= self.window:
            raise ValueError(f"a sink of {self.sink} frames in a window of {self.window}; it must be smaller")
        if not 0 <= self.sink_ema <= 1:
            raise ValueError(f"sink_ema is {self.sink_ema}; it must lie in [0, 1]")
        self._refuse_combinations()

    def _refuse_combinations(self) -> None:
        relative, moving = self.rope == "cache_relative", self.rope == "absolute_moving_anchor"
        if self.cut_position and not relative:
            raise ValueError("cut_position needs rope 'cache_relative': absolute positions cannot come back")
        if self.averages_sink and not (relative and self.sink):
            raise ValueError("sink_ema needs a sink and rope 'cache_relative'")
        if self.rolling != moving:
            raise ValueError("rolling chunks have a moving anchor, and no others have: set both or none")
        if self.rolling and (self.recache != "none" or self.first_chunk_frames or self.first_chunk_steps):
            raise ValueError("rolling chunks have neither a first chunk of their own nor a recache")
        if self.bank and self.rope != "absolute":
            raise ValueError("a bank needs rope 'absolute': its keys keep their positions")

    @property
    def averages_sink(self) -> bool:
        """Whether the sink is a moving average."""
        return self.sink_ema < 1

    def check_chunk(self, chunk_frames: int) -> None:
        """Raises ValueError if chunks of this number of frames do not fit the window or the sink."""
        if chunk_frames > self.window - self.sink:
            raise ValueError(
                f"chunks of {chunk_frames} frames do not fit a window of {self.window} with {self.sink} fixed"
            )
        first = self.first_chunk_frames or chunk_frames
        if not 1 <= first <= chunk_frames:
            raise ValueError(f"a first chunk of {first} frames; the others have {chunk_frames}")
        if self.rolling and self.sink > chunk_frames:
            raise ValueError(f"a moving sink of {self.sink} frames; it is at most the first chunk")
        if self.rolling and len(self.steps) * chunk_frames > self.window:
            raise ValueError(
                f"{len(self.steps)} chunks of {chunk_frames} frames are denoised together; the window has "
                f"{self.window}"
            )
        if self.averages_sink and not self.sink == chunk_frames == first:
            raise ValueError(f"the average of a sink of {self.sink} frames needs chunks of as many frames")
        if self.averages_sink and self.window % chunk_frames:
            raise ValueError(f"a window of {self.window} frames; an averaged sink needs whole chunks")

    def max_chunks(self, geometry: VideoGeometry) -> int | None:
        """Returns the number of chunks whose positions were trained; None: there is no limit."""
        if not self.max_frames:
            return None
        return 1 + (self.max_frames - geometry.shot_num_latent_frames(1)) // geometry.chunk_latent_frames

    def check_length(self, num_chunks: int, geometry: VideoGeometry) -> None:
        """Raises ValueError if the positions of a shot of `num_chunks` chunks were never trained."""
        most = self.max_chunks(geometry)
        if most is not None and num_chunks > most:
            raise ValueError(
                f"{num_chunks} chunks; this model's shots have at most {most}: its positions were trained up "
                f"to {self.max_frames} latent frames; ask for fewer chunks, and go on in another shot"
            )
