"""The shots of a clip as a model sees them: at its size and its frame rate, each cut on its own.

Reads a video once, from its beginning, and holds the frames of one shot at a time, as uint8. A picture is
cut around its centre to the model's proportions and then resized, so that nothing is squeezed. Frame rates
are converted by taking, for each moment, the frame that is on screen then: fast video loses frames, slow
video repeats them, and the speed of motion stays. A shot keeps its own range of frames whatever lies before
or after it. It never looks for cuts.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch.nn.functional import avg_pool2d, interpolate

from shotstream.codec.video_io import Frames, VideoError, frame_rate, iter_frames
from shotstream.geometry import PixelSize, VideoGeometry
from shotstream.manifest import Clip


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipForm:
    """What clips are brought to."""

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
    """One shot, ready to be encoded."""

    shot_index: int
    """In the clip."""
    frames: Frames
    """1 + a multiple of the temporal stride of them."""


def iter_shots(clip: Clip, form: ClipForm) -> Iterator[ShotFrames]:
    """The shots of a clip that fill a chunk, in order; shorter ones are left out.

    Raises:
        VideoError: the video cannot be read, or ends before its last shot does.
    """
    speed = frame_rate(clip.video) / form.fps
    plans = [(index, _source_frames(*span, speed, form)) for index, span in enumerate(clip.shot_ranges)]
    plans = [(index, plan) for index, plan in plans if len(plan)]
    if not plans:
        return
    end, stop = int(plans[0][1][0]), int(plans[-1][1][-1]) + 1
    pieces: list[Frames] = []
    for batch in iter_frames(clip.video, end, stop):
        first, end = end, end + len(batch)
        while plans:
            index, plan = plans[0]
            here = plan[(first <= plan) & (plan < end)]
            if len(here):
                pieces.append(fit(batch[here - first], form.size))
            if plan[-1] >= end:
                break
            yield ShotFrames(shot_index=index, frames=np.concatenate(pieces))
            pieces = []
            del plans[0]
    if plans:
        raise VideoError(f"{clip.video}: ends at frame {end}, and its shots at frame {stop}")


def _source_frames(start: int, stop: int, speed: Fraction, form: ClipForm) -> Int[np.ndarray, " f"]:
    """Frames of the file that make a shot; none when they would not fill a chunk."""
    stride = form.geometry.temporal_stride
    num_frames = -((start - stop) // speed)  # every moment that falls into the range
    num_latent_frames = min(1 + (num_frames - 1) // stride, form.max_latent_frames)
    if num_latent_frames < form.geometry.chunk_latent_frames:
        return np.zeros(0, np.int64)
    wanted = range(form.geometry.num_frames(num_latent_frames))
    return np.array([start + int(moment * speed) for moment in wanted], np.int64)


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
    pixels = torch.from_numpy(np.ascontiguousarray(cut)).permute(0, 3, 1, 2).float()
    factor = cut_height // size.height
    if (cut_height, cut_width) == (factor * size.height, factor * size.width):
        resized = avg_pool2d(pixels, factor)
    else:
        target = (size.height, size.width)
        resized = interpolate(pixels, target, mode="bicubic", antialias=True, align_corners=False)
    return resized.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
