"""Your own fox: a drawing gives it its scarf in every shot, and a running shot turns to another action.

python examples/references_and_steering.py
"""

import numpy as np
from PIL import Image

import shotstream
from shotstream.story import Reference
from shotstream.theatre.cast import TRANSPARENT, Actor, Scarf, pose_at, sprite
from shotstream.theatre.palette import INDEX, to_rgb
from shotstream.video.pictures import picture_to_uri


def drawing(scarf: Scarf) -> np.ndarray:
    """A drawing of the fox on white paper, as you may have one in a file."""
    fox = sprite(Actor("fox", "red", scarf), pose_at("stands", 0, facing="right")).repeat(2, 0).repeat(2, 1)
    paper = np.full((48, 80), INDEX["white"], dtype=np.uint8)
    np.copyto(paper[8:40, 24:56], fox, where=fox != TRANSPARENT)
    return to_rgb(paper)


def main(scarf: Scarf = "scarf_cyan") -> list[np.ndarray]:
    """The drawing, and the frames of three shots, each "f h w 3" in uint8; the last one is steered."""
    picture = drawing(scarf)
    scout = Reference(id="scout", image=picture_to_uri(picture), caption="the red fox")  # or a file's name
    session = shotstream.load("theatre").session("@scout on the beach by day.", seed=5, references=[scout])
    film = [picture[None]]
    for caption in ("Medium shot: @scout dances.", "Close-up: @scout sleeps.", "Wide shot: @scout waves."):
        film.append(next(shot := session.shot(caption)).frames)
        if "waves" in caption:
            session.steer("It jumps.")
        film[-1] = np.concatenate([film[-1], *(chunk.frames for chunk in shot)])
    return film


if __name__ == "__main__":
    rows = [np.concatenate([part[len(part) // 2] for part in main(s)], 1) for s in ("scarf_cyan", "white")]
    Image.fromarray(np.concatenate(rows)).resize((1280, 384), Image.Resampling.NEAREST).save("foxes.png")
