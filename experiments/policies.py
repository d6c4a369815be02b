"""The context policies of the paper's ablations (arXiv 2603.25746), each with one difference from `theatre`.

They choose only frames that `theatre` may choose as well, so that shots generated without them can be used.
"""

from shotstream.streaming.context_sampling import TheatrePolicy


class FirstFrames(TheatrePolicy):
    """`first_frames`: the first frame of each shot, repeated."""

    def frames_of(self, num_frames: int, count: int) -> tuple[int, ...]:
        """Returns the first frame, `count` times."""
        del num_frames
        return (0,) * count


class FirstAndLastFrames(TheatrePolicy):
    """`first_and_last_frames`: the first and the last frame of each shot, repeated."""

    def frames_of(self, num_frames: int, count: int) -> tuple[int, ...]:
        """Returns the first frame for half of `count`, rounded up, and the last one for the rest."""
        return (0,) * (count - count // 2) + (num_frames - 1,) * (count // 2)


class TargetCaption(TheatrePolicy):
    """`target_caption`: every context frame has the caption of the next shot, not that of its own."""

    own_captions = False
