"""A story becomes a film: an MP4 with subtitles, a storyboard and a replay file.

python examples/make_film.py
"""

from pathlib import Path

import shotstream
from shotstream.film import Film, FilmFiles, FilmSettings, make_film, plan_film, running_environment

STORY = shotstream.Story(
    global_caption="A story about a purple fox and a yellow owl in the forest at sunset.",
    shots=(
        shotstream.Shot(caption="Wide shot: the purple fox walks to the right in the forest at sunset."),
        shotstream.Shot(
            caption="Close-up: the yellow owl waves hello in the forest at sunset.", num_chunks=2
        ),
    ),
)


def main(output: Path = Path("film.mp4")) -> Film:
    """Makes the film, or goes on with it after an interruption."""
    pipeline = shotstream.load("theatre")  # or "wan-1.3b", or the directory of a bundle
    return make_film(
        pipeline,
        plan_film(STORY, pipeline, seed=7),
        running_environment(pipeline),
        FilmSettings(files=FilmFiles(film=output), scale=8),
        lambda progress: print(f"shot {progress.shot_index + 1} of {progress.num_shots}"),
    )


if __name__ == "__main__":
    film = main()
    print(f"{film.files.film}: {film.num_new_frames} frames in {film.generate_s:.1f} s")
