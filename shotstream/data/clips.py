"""The shots of a clip as a model sees them: at its size and its frame rate, each cut on its own.

Reads a video from its beginning, and holds the frames of one shot at a time, as uint8. A picture is cut
around its centre to the model's proportions and then resized, so that nothing is squeezed. Ranges count
frames of the file in the order in which they are shown; time is what the file says. A shot begins when its
first frame appears and takes, for each moment of the model's rate, the frame that is on screen then: fast
video loses frames, slow video repeats them, whether the rate changes or not, and the speed of motion stays.
A shot keeps its own range of frames whatever lies before or after it. It never looks for cuts.
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
    """Of a frame."""
    fps: int
    """Frames per second."""
    geometry: VideoGeometry
    """Shots are cut at the end to whole latent frames of it."""
    max_latent_frames: int
    """Longer shots are cut at the end to this."""

    def __post_init__(self) -> None:
        least = self.geometry.chunk_latent_frames
        if self.max_latent_frames < least:
            raise ValueError(
                f"at most {self.max_latent_frames} latent frames per shot; a chunk alone has {least}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ShotFrames:
    """Frames of one shot, ready to be encoded."""

    shot_index: int
    """In the clip."""
    frames: Frames
    """1 + a multiple of the temporal stride of them."""


def iter_shots(clip: Clip, form: ClipForm) -> Iterator[ShotFrames]:
    """The shots of a clip that fill a chunk, in order; shorter ones are left out.

    Raises:
        VideoError: the video cannot be read, is damaged where a shot is, or ends before its last shot does.
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
    """Frames of the file that make a shot; none when they would not fill a chunk."""
    stride = form.geometry.temporal_stride
    seconds = timeline.seconds(start, stop) - timeline.slack
    num_frames = max(-(-seconds * form.fps // 1), 1)  # every moment that falls into the range
    num_latent_frames = min(1 + (num_frames - 1) // stride, form.max_latent_frames)
    if num_latent_frames < form.geometry.chunk_latent_frames:
        return []
    wanted = range(form.geometry.num_frames(num_latent_frames))
    return [timeline.on_screen(start, Fraction(moment, form.fps)) for moment in wanted]


def fit(frames: Frames, size: PixelSize) -> UInt8[np.ndarray, "f out_h out_w 3"]:
    """Frames at another size: cut around the centre to its proportions, then resized.

    Reduction by a whole factor takes the mean of each square, which gives back enlarged pixels exactly;
    anything else is bicubic, with antialiasing. Frames of the size itself stay as they are.
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
    for index, channel in np.ndindex(len(frames), 3):  # one at a time: in float, an 8K picture is large
        pixels = torch.from_numpy(cut[index, None, None, :, :, channel].astype(np.float32))
        if is_whole:
            resized = avg_pool2d(pixels, factor)
        else:
            target = (size.height, size.width)
            resized = interpolate(pixels, target, mode="bicubic", antialias=True, align_corners=False)
        fitted[index, :, :, channel] = resized[0, 0].round().clamp(0, 255).to(torch.uint8).numpy()
    return fitted
