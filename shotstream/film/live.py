"""The progress display of a film: a live line on a terminal, one line per shot elsewhere."""

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

from shotstream.documents import printable
from shotstream.film.make import Progress
from shotstream.film.replay import FilmPlan

LONG_WAIT_S = 120
"""Remaining time in seconds above which an estimate is printed, once."""


class LiveView:
    """The progress display: a context manager, and the `on_progress` of `make_film`."""

    def __init__(self, console: Console, plan: FilmPlan) -> None:
        self._console = console
        self._chunks_before = [0]
        for shot in plan.story.shots:
            self._chunks_before.append(self._chunks_before[-1] + (shot.num_chunks or 0))
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[facts]}"),
        )
        self._bar = Bar(*columns, console=console, transient=True)
        self._task = self._bar.add_task("", total=self._chunks_before[-1], facts="")
        self._first_chunk: int | None = None
        self._first_frame_s: float | None = None
        self._was_estimated = False

    def __enter__(self) -> "LiveView":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, progress: Progress) -> None:
        """Shows the progress of the film."""
        label = f"shot {progress.shot_index + 1}/{progress.num_shots}"
        num_done = self._chunks_before[progress.shot_index]
        if self._first_chunk is None:
            self._first_chunk = num_done
        if progress.chunk_index is None:
            self._bar.update(self._task, description=label, completed=num_done)
            return
        num_done += progress.chunk_index + 1
        if self._first_frame_s is None:
            self._first_frame_s = progress.elapsed_s
        facts = f"{progress.num_frames / progress.elapsed_s:.0f} fps"
        if self._first_chunk == self._chunks_before[progress.shot_index]:
            facts += f"   first frame after {self._first_frame_s:.2f} s"  # shown with the first shot only
        detail = f"{label} chunk {progress.chunk_index + 1}/{progress.num_chunks}"
        self._bar.update(self._task, description=detail, completed=num_done, facts=facts)
        if progress.chunk_index + 1 == progress.num_chunks:
            if not self._console.is_terminal:
                self._console.print(f"{label}: {facts}", highlight=False, soft_wrap=True)
            self._estimate(num_done, progress.elapsed_s)

    def _estimate(self, num_done: int, elapsed_s: float) -> None:
        # The first chunk also waits for caches to be allocated, so it says little about the others.
        num_timed = num_done - (self._first_chunk or 0) - 1
        if self._was_estimated or num_timed < 1:
            return
        self._was_estimated = True
        chunk_s = (elapsed_s - (self._first_frame_s or 0.0)) / num_timed
        left_s = (self._chunks_before[-1] - num_done) * chunk_s
        if left_s > LONG_WAIT_S:
            warn(
                self._console,
                f"a long story: about {round(left_s / 60)} more minutes; stop it at will, and go on later",
            )


def warn(console: Console, message: str) -> None:
    """Prints a warning on one line."""
    told = Text.assemble(("warning:", "yellow"), " ", printable(message))
    console.print(told, highlight=False, soft_wrap=True)
