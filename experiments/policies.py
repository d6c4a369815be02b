"""The context policies of the paper's ablations (arXiv 2603.25746), each `theatre` but for one thing.

None chooses a frame that `theatre` never does, so that shots made without them serve as well.
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
    """`target_caption`: every context frame reads the caption of the shot to be made, not of its own."""

    own_captions = False
