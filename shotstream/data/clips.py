"""The shots of a clip as a model takes them: with its frame size and its frame rate, each read independently.

A video is read from its beginning, and the frames of one shot at a time are in memory, as uint8. A frame is
cropped around its centre to the model's aspect ratio and then resized, so that proportions are kept. Ranges
count the frames of the file in presentation order; times are those of the file. A shot begins when its first
frame appears and takes, for each time step of the model's rate, the frame that is on screen then: fast video
loses frames, slow video repeats them, also with a variable frame rate, and the speed of motion is kept. A
shot has its own range of frames, whatever precedes or follows it. Cuts are not detected.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from jaxtyping import UInt8
from torch.nn.functional import avg_pool2d, interpolate

from shotstream.geometry import PixelSize, VideoGeometry
from shotstream.manifest import Clip
from shotstream.video.video_io import Frames
from shotstream.video.video_reader import Timeline, VideoError, iter_pictures, read_timeline


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipForm:
    """The format that clips are converted to."""

    size: PixelSize
    """Size of a frame."""
    fps: int
    """Frames per second."""
    geometry: VideoGeometry
    """Strides of the codec; a shot is cut at the end to complete latent frames."""
    max_latent_frames: int
    """Maximum number of latent frames of a shot; longer shots are cut at the end."""

    def __post_init__(self) -> None:
        least = self.geometry.chunk_latent_frames
        if self.max_latent_frames < least:
            raise ValueError(
                f"at most {self.max_latent_frames} latent frames per shot; a chunk alone has {least}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ShotFrames:
    """The frames of one shot, ready to be encoded."""

    shot_index: int
    """Index of the shot in the clip."""
    frames: Frames
    """The frames; their number is 1 + a multiple of the temporal stride."""


def iter_shots(clip: Clip, form: ClipForm) -> Iterator[ShotFrames]:
    """Yields the shots of a clip that fill at least a chunk, in order; shorter ones are left out.

    Raises:
        VideoError: The video cannot be read, is damaged within a shot, or ends before its last shot does.
    """
    timeline = read_timeline(clip.video, clip.num_frames)
    if timeline.num_frames < clip.num_frames:
        raise VideoError(
            f"{clip.video}: ends at frame {timeline.num_frames}, and its shots at frame {clip.num_frames}"
        )
    plans = [(index, _source_frames(*span, timeline, form)) for index, span in enumerate(clip.shot_ranges)]
    plans = [(index, plan) for index, plan in plans if plan]
    pieces: list[Frames] = []
    for number, picture in iter_pictures(clip.video, timeline, [plan for _, plan in plans]):
        index, plan = plans[0]
        pieces += [fit(picture[None], form.size)] * plan.count(number)
        if number == plan[-1]:
            yield ShotFrames(shot_index=index, frames=np.concatenate(pieces))
            pieces = []
            del plans[0]


def _source_frames(start: int, stop: int, timeline: Timeline, form: ClipForm) -> list[int]:
    """Returns the indices of the file's frames that make a shot; empty if they would not fill a chunk."""
    stride = form.geometry.temporal_stride
    seconds = timeline.seconds(start, stop) - timeline.slack
    num_frames = max(-(-seconds * form.fps // 1), 1)  # every time step that falls into the range
    num_latent_frames = min(1 + (num_frames - 1) // stride, form.max_latent_frames)
    if num_latent_frames < form.geometry.chunk_latent_frames:
        return []
    wanted = range(form.geometry.num_frames(num_latent_frames))
    return [timeline.on_screen(start, Fraction(moment, form.fps)) for moment in wanted]


def fit(frames: Frames, size: PixelSize) -> UInt8[np.ndarray, "f out_h out_w 3"]:
    """Returns frames at another size: cropped around the centre to its aspect ratio, then resized.

    Reduction by an integer factor takes the mean of each square, which restores enlarged pixels exactly; any
    other resize is bicubic with antialiasing. Frames that have the size already are returned as they are.
    """
    height, width = frames.shape[1:3]
    cut_height = min(height, round(width * size.height / size.width))
    cut_width = min(width, round(height * size.width / size.height))
    top, left = (height - cut_height) // 2, (width - cut_width) // 2
    cut = frames[:, top : top + cut_height, left : left + cut_width]
    if (cut_height, cut_width) == (size.height, size.width):
        return cut
    factor = cut_height // size.height
    is_whole = (cut_height, cut_width) == (factor * size.height, factor * size.width)
    fitted = np.empty((len(frames), size.height, size.width, 3), np.uint8)
    for index, channel in np.ndindex(len(frames), 3):  # one at a time: an 8K picture in float32 is large
        pixels = torch.from_numpy(cut[index, None, None, :, :, channel].astype(np.float32))
        if is_whole:
            resized = avg_pool2d(pixels, factor)
        else:
            target = (size.height, size.width)
            resized = interpolate(pixels, target, mode="bicubic", antialias=True, align_corners=False)
        fitted[index, :, :, channel] = resized[0, 0].round().clamp(0, 255).to(torch.uint8).numpy()
    return fitted
