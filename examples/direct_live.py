"""A story is directed while it is made: chunk by chunk, with a cut in the middle of a shot.

python examples/direct_live.py
"""

import numpy as np

import shotstream


def main() -> list[np.ndarray]:
    """The frames of three shots, each "f h w 3" in uint8; the second one is cut after a chunk."""
    session = shotstream.load("theatre").session("A purple fox in the forest at sunset.", seed=7)
    film: list[np.ndarray] = []

    wide = session.shot("Wide shot: the purple fox walks to the right in the forest.", num_chunks=2)
    film.append(np.concatenate([chunk.frames for chunk in wide]))

    # Each chunk is here as soon as it is decoded. Closing the iterator is a cut at that chunk.
    medium = session.shot("Medium shot: the purple fox waves hello in the forest.")
    film.append(next(medium).frames)
    medium.close()

    # The next shot looks back at frames of both. A pinned frame is always among them.
    session.pin(film[0][-1], shot_index=0)
    close = session.shot("Close-up: the purple fox sleeps in the forest at night.", num_chunks=1)
    film.append(np.concatenate([chunk.frames for chunk in close]))
    return film


if __name__ == "__main__":
    for number, frames in enumerate(main(), start=1):
        print(f"shot {number}: {len(frames)} frames of {frames.shape[2]}x{frames.shape[1]} pixels")
