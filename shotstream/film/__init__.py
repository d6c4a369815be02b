"""Films from stories: the MP4, subtitles, storyboard and replay file; an interrupted film can be resumed."""

from shotstream.film.make import (
    Film,
    FilmExistsError,
    FilmFiles,
    FilmSettings,
    Progress,
    check_target,
    count_differences,
    make_film,
)
from shotstream.film.prepare import caption_warnings, check_replay, plan_film, read_film, running_environment
from shotstream.film.replay import Environment, FilmPlan, Replay, ReplayError, is_replay, read_replay
from shotstream.film.workdir import WorkDirError, num_finished_shots

__all__ = [
    "Environment",
    "Film",
    "FilmExistsError",
    "FilmFiles",
    "FilmPlan",
    "FilmSettings",
    "Progress",
    "Replay",
    "ReplayError",
    "WorkDirError",
    "caption_warnings",
    "check_replay",
    "check_target",
    "count_differences",
    "is_replay",
    "make_film",
    "num_finished_shots",
    "plan_film",
    "read_film",
    "read_replay",
    "running_environment",
]
