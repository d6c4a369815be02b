"""Generates a film from a plan: shot after shot, each on disk before the next, then the files to be watched.

A film is `film.mp4` with a chapter per shot, `film.srt`, `film.storyboard.png` and `film.replay.json`.
Unfinished work is in `film.mp4.partial/`, and the same call resumes it however it ended. A finished film is
overwritten only if `overwrite` is set. The frames are the pipeline's own; nothing is selected or changed.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from shotstream import documents
from shotstream.files import flush, make_atomically
from shotstream.film.replay import (
    Environment,
    FilmPlan,
    Pins,
    Replay,
    ReplayError,
    compare_frames,
    read_replay,
)
from shotstream.film.storyboard import Panel, draw_storyboard
from shotstream.film.subtitles import subtitles, told_parts
from shotstream.film.workdir import (
    FinishedShot,
    OtherWorkError,
    WorkDir,
    WorkDirError,
    discard_work,
    is_work_of,
    load_frames,
)
from shotstream.film.wrapping import one_line, shorten
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.streaming.session import StorySession
from shotstream.video.video_io import Chapter, H264Settings, Mp4Writer

_CHAPTER_CHARS = 70
_MAX_NAME_BYTES = 255


class FilmExistsError(ValueError):
    """The film, or one of the files beside it, exists already."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FilmFiles:
    """The files of one film, all beside `film`."""

    film: Path
    """Path of the MP4; its name ends in .mp4. A string is converted to a `Path`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "film", Path(self.film))
        if self.film.suffix.lower() != ".mp4":
            raise ValueError(f"{self.film}: a film is an MP4; give a name that ends in .mp4")
        # The longest name of a temporary file beside it.
        longest = f".part.{self.storyboard.name}"
        if (num_bytes := len(os.fsencode(longest))) > _MAX_NAME_BYTES:
            raise ValueError(
                f"the film's name {documents.shorten(self.film.name)!r} is too long; shorten it by "
                f"{num_bytes - _MAX_NAME_BYTES} bytes"
            )

    @property
    def subtitles(self) -> Path:
        """Path of the SubRip subtitles, one caption per shot."""
        return self.film.with_suffix(".srt")

    @property
    def storyboard(self) -> Path:
        """Path of the storyboard, a page with a picture of each shot."""
        return self.film.with_suffix(".storyboard.png")

    @property
    def replay(self) -> Path:
        """Path of the replay file, from which the film can be generated again."""
        return self.film.with_suffix(".replay.json")

    @property
    def partial(self) -> Path:
        """Path of the directory of the unfinished film."""
        return self.film.with_name(self.film.name + ".partial")


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """The progress of a film; reported after each chunk, and before each shot with `chunk_index` None."""

    shot_index: int
    """Index of the shot in the film, from 0."""
    num_shots: int
    """Number of shots of the film."""
    chunk_index: int | None
    """Index in the shot of the chunk that was just generated, from 0; None: the shot begins."""
    num_chunks: int
    """Number of chunks of the shot."""
    num_frames: int
    """Number of frames generated in this run so far."""
    elapsed_s: float
    """Seconds since this run's first shot began."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Film:
    """A finished film."""

    files: FilmFiles
    """The files of the film."""
    replay: Replay
    """The plan, the environment and the hashes of all frames."""
    num_resumed_shots: int
    """Number of shots that an earlier run had finished."""
    num_new_frames: int
    """Number of frames generated in this run."""
    generate_s: float
    """Seconds from the start of this run's first shot until its last shot was stored; 0 without a new
    shot.
    """
    first_frame_s: float | None
    """Seconds from the start of the first shot to its first frames; None if an earlier run had finished all
    shots.
    """


@dataclass(frozen=True, kw_only=True, slots=True)
class FilmSettings:
    """Settings of a film: how it is generated and written."""

    files: FilmFiles
    """The files to write."""
    scale: int = 1
    """Factor by which the frames of the MP4 are enlarged (nearest neighbour)."""
    overwrite: bool = False
    """Whether to replace a finished film, and unfinished work of another film."""


def make_film(
    pipeline: StreamingPipeline,
    plan: FilmPlan,
    environment: Environment,
    settings: FilmSettings,
    on_progress: Callable[[Progress], None],
) -> Film:
    """Generates a film, or resumes an unfinished one.

    A film that an earlier run has completed, but whose unfinished work it has not deleted, is returned as it
    is.

    Args:
        pipeline: The plan's model, loaded.
        plan: The shots, and everything that their frames depend on.
        environment: The environment of `pipeline`.
        settings: How the film is generated and written.
        on_progress: Called before each shot and after each chunk.

    Raises:
        FilmExistsError: A file would be overwritten. Nothing was generated.
        WorkDirError: The unfinished work cannot be resumed.
        OSError: A file cannot be written, on a full disk for example. The shots finished so far are kept.
    """
    files = settings.files
    check_target(settings)
    with _open_work(pipeline, plan, environment, settings) as work:
        if not settings.overwrite and files.film.exists():
            replay = read_replay(files.replay)
            work.remove()
            return _finished_before(files, replay)
        shots = work.finished_shots()
        for shot in shots:
            load_frames(shot)  # a damaged file is found before any time is spent on new shots
        num_resumed_shots = len(shots)
        counter = _Counter(plan, on_progress)
        if num_resumed_shots < len(plan.story.shots):
            session = (
                pipeline.load_session(work.session_file(num_resumed_shots - 1), quiet=True)
                if num_resumed_shots
                else pipeline.session(
                    plan.story.global_caption,
                    seed=plan.seed,
                    references=plan.story.references,
                    policy=plan.context_policy,
                    quiet=True,
                )
            )
            for shot_index in range(num_resumed_shots, len(plan.story.shots)):
                if plan.pins:
                    _pin_frames(session, plan.pins[shot_index], shots)
                frames = _film_shot(session, plan, shot_index, counter)
                shots.append(work.keep_shot(shot_index, frames, session.save))
            counter.stop()
        replay = Replay(
            plan=plan, environment=environment, frame_sha256=tuple(shot.frame_sha256 for shot in shots)
        )
        _finish(work, shots, replay, settings, pipeline.fps, pipeline.geometry.shot_num_frames)
        work.remove()
    return Film(
        files=files,
        replay=replay,
        num_resumed_shots=num_resumed_shots,
        num_new_frames=counter.num_frames,
        generate_s=counter.elapsed_s,
        first_frame_s=counter.first_frame_s,
    )


def check_target(settings: FilmSettings) -> None:
    """Checks that a film can be written, before it is generated.

    Raises:
        FilmExistsError: A file would be overwritten, and `overwrite` is not set.
        WorkDirError: The directory cannot be created or written.
    """
    files = settings.files
    _check_directory(files.film.parent)
    if settings.overwrite or _only_clears_away(files):
        return
    # If there is unfinished work, the files beside the film may already be in place: only the film decides.
    beside = () if files.partial.exists() else (files.subtitles, files.storyboard, files.replay)
    for path in (files.film, *beside):
        if path.exists():
            raise FilmExistsError(f"{path} exists; give --overwrite to replace it, or another name with -o")


def _check_directory(directory: Path) -> None:
    there = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    if not there.is_dir():
        raise WorkDirError(f"{there} is a file, and no directory for a film; give another name with -o")
    if not os.access(there, os.W_OK | os.X_OK):
        raise WorkDirError(
            f"{there} cannot be written to: it is read-only, or not yours; give another name with -o"
        )


def _only_clears_away(files: FilmFiles) -> bool:
    """Returns whether the film is complete and `partial` is the work that made it: only to be deleted."""
    if not (files.film.exists() and files.partial.is_dir()) or (files.partial / files.film.name).exists():
        return False
    try:
        return is_work_of(files.partial, read_replay(files.replay))
    except ReplayError:
        return False


def _finished_before(files: FilmFiles, replay: Replay) -> Film:
    return Film(
        files=files,
        replay=replay,
        num_resumed_shots=len(replay.frame_sha256),
        num_new_frames=0,
        generate_s=0.0,
        first_frame_s=None,
    )


def count_differences(film: Film, expected: Replay) -> tuple[int, str]:
    """Returns the number of frames that differ from another replay's, and the place of the first one."""
    first: list[str] = []
    num_different = compare_frames(expected.frame_sha256, film.replay.frame_sha256, first.append)
    return num_different, "".join(first)


class _Counter:
    """Counts and times the frames of a run, and reports its progress."""

    def __init__(self, plan: FilmPlan, on_progress: Callable[[Progress], None]) -> None:
        self._plan = plan
        self._on_progress = on_progress
        self._start_s: float | None = None
        self.num_frames = 0
        self.first_frame_s: float | None = None
        self.elapsed_s = 0.0

    def shot_begins(self, shot_index: int) -> None:
        if self._start_s is None:
            self._start_s = time.perf_counter()
        self._tell(shot_index, None)

    def chunk_done(self, shot_index: int, chunk_index: int, num_frames: int) -> None:
        self.stop()
        if self.first_frame_s is None:
            self.first_frame_s = self.elapsed_s
        self.num_frames += num_frames
        self._tell(shot_index, chunk_index)

    def stop(self) -> None:
        if self._start_s is not None:
            self.elapsed_s = time.perf_counter() - self._start_s

    def _tell(self, shot_index: int, chunk_index: int | None) -> None:
        shots = self._plan.story.shots
        self._on_progress(
            Progress(
                shot_index=shot_index,
                num_shots=len(shots),
                chunk_index=chunk_index,
                num_chunks=shots[shot_index].num_chunks or 0,
                num_frames=self.num_frames,
                elapsed_s=self.elapsed_s,
            )
        )


def _open_work(
    pipeline: StreamingPipeline, plan: FilmPlan, environment: Environment, settings: FilmSettings
) -> WorkDir:
    settings.files.film.parent.mkdir(parents=True, exist_ok=True)
    partial = settings.files.partial
    try:
        return WorkDir(partial, plan, environment, pipeline.fps)
    except OtherWorkError:
        if not settings.overwrite:
            raise
        discard_work(partial)
        return WorkDir(partial, plan, environment, pipeline.fps)


def _pin_frames(session: StorySession, pins: Pins, shots: list[FinishedShot]) -> None:
    """Pins these frames of the finished shots and no others; raises ReplayError for a missing frame."""
    session.unpin()
    for shot_index, frame_index in pins:
        frames = load_frames(shots[shot_index])
        if frame_index >= len(frames):
            raise ReplayError(f"frame {frame_index} of shot {shot_index + 1} is pinned; it has {len(frames)}")
        session.pin(frames[frame_index], shot_index)


def _film_shot(
    session: StorySession, plan: FilmPlan, shot_index: int, counter: _Counter
) -> UInt8[np.ndarray, "f h w 3"]:
    shot = plan.story.shots[shot_index]
    assert shot.num_chunks is not None, "a plan names the length of every shot"
    counter.shot_begins(shot_index)
    chunks: list[np.ndarray] = []
    stream = session.shot(
        shot.caption, num_chunks=shot.num_chunks, seed=shot.seed, steps=plan.num_steps, then=shot.then
    )
    for chunk_index, chunk in enumerate(stream):
        chunks.append(chunk.frames)
        counter.chunk_done(shot_index, chunk_index, len(chunk.frames))
    return np.concatenate(chunks)


def _finish(
    work: WorkDir,
    shots: list[FinishedShot],
    replay: Replay,
    settings: FilmSettings,
    fps: int,
    num_frames_of: Callable[[int], int],
) -> None:
    """Writes the four files inside the work directory, then moves them into place, the film last."""
    files, story = settings.files, replay.plan.story
    made = replace(files, film=work.path / files.film.name)
    lengths = [len(shot.frame_sha256) for shot in shots]
    panels: list[Panel] = []

    def encode(part: Path) -> None:
        h264 = H264Settings(scale=settings.scale)
        with Mp4Writer(part, fps, h264, title=one_line(story.title), chapters=_chapters(replay)) as writer:
            for shot, written in zip(shots, story.shots, strict=True):
                frames = load_frames(shot)
                writer.write(frames)
                duration_s = float(len(frames) / Fraction(fps))
                panels.append(
                    Panel(
                        picture=frames[len(frames) // 2],
                        caption=" / ".join([written.caption, *(one.caption for one in written.then)]),
                        duration_s=duration_s,
                    )
                )

    make_atomically(made.film, encode)
    captions, parts = told_parts(story.shots, lengths, num_frames_of)
    texts = {made.subtitles: subtitles(captions, parts, fps), made.replay: replay.to_json()}
    for path, text in texts.items():
        make_atomically(path, lambda part, text=text: _write_text(part, text))
    page = draw_storyboard(story.title, story.global_caption, panels)
    make_atomically(made.storyboard, lambda part: page.save(part, format="png"))
    for source, target in (
        (made.subtitles, files.subtitles),
        (made.storyboard, files.storyboard),
        (made.replay, files.replay),
        (made.film, files.film),
    ):
        source.replace(target)
    flush(files.film.parent)  # before the work directory is deleted


def _chapters(replay: Replay) -> list[Chapter]:
    chapters: list[Chapter] = []
    start_frame = 0
    for number, (shot, hashes) in enumerate(
        zip(replay.plan.story.shots, replay.frame_sha256, strict=True), start=1
    ):
        short = shorten(one_line(shot.caption), _CHAPTER_CHARS)
        end_frame = start_frame + len(hashes)
        chapters.append(Chapter(title=f"{number}. {short}", start_frame=start_frame, end_frame=end_frame))
        start_frame = end_frame
    return chapters


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
