"""A story is saved after a shot and goes on later, in another process, as if it had never ended.

python examples/save_and_continue.py
"""

from pathlib import Path

import numpy as np

import shotstream

FIRST = "Wide shot: the purple fox walks to the right in the forest at sunset."
SECOND = "Close-up: the purple fox waits in the forest at sunset."


def shoot(session: shotstream.StorySession, caption: str) -> np.ndarray:
    """The frames of one shot of one chunk."""
    return np.concatenate([chunk.frames for chunk in session.shot(caption, num_chunks=1)])


def main(path: Path = Path("story.session")) -> tuple[np.ndarray, np.ndarray]:
    """The second shot, made without a break and made after the story was read from the file."""
    pipeline = shotstream.load("theatre")
    session = pipeline.session("A purple fox in the forest at sunset.", seed=7)
    shoot(session, FIRST)
    session.save(path)  # latents of what later shots may look back at, captions, seeds, pins
    without_a_break = shoot(session, SECOND)

    continued = pipeline.load_session(path)
    return without_a_break, shoot(continued, SECOND)


if __name__ == "__main__":
    first, second = main()
    print("identical" if np.array_equal(first, second) else "different")
