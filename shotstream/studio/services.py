"""What a studio's routes work with: the worker, the tools, and files on their way out."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from shotstream.studio.exports import Exporter
from shotstream.studio.handover import Handover
from shotstream.studio.making import StudioTools
from shotstream.studio.media import TakeDamaged
from shotstream.studio.refusal import Refusal
from shotstream.studio.script import TakeRecord
from shotstream.studio.trouble import explain
from shotstream.studio.worker import Worker

Job = Callable[[Exporter, Path], object]
"""Writes a file; what it returns, if it is text, is the name that the file is saved as."""


class Services:
    """What the routes of one application share.

    Args:
        tools: what stories are made with.
        worker: who makes them.
        exports_dir: where files on their way out are made.
    """

    def __init__(self, tools: StudioTools, worker: Worker, exports_dir: Path) -> None:
        self.tools = tools
        self.worker = worker
        self._exports_dir = exports_dir
        self._num_exporting = self._num_files = 0

    async def mend(self, story_id: str, damage: TakeDamaged) -> Refusal:
        """What to tell whoever asked for a damaged take, which is made anew."""
        await self.worker.ask(lambda studio: studio.mend(story_id, damage.take_id))
        return Refusal("busy", "the take's files are damaged and are made anew now; try again soon")

    async def take(self, story_id: str, take_id: str) -> TakeRecord:
        """A take that is asked for; Refusal when the story has none of that id."""
        record = await run_in_threadpool(self.tools.store.take, story_id, take_id)
        if record is None:
            raise Refusal("not_found", "this story has no such take")
        return record

    async def find_film(self, story_id: str, shot_id: str | None = None) -> None:
        """Refusal when there is no such film or shot."""
        exporter = Exporter(self.tools, await self.worker.ask(lambda studio: studio.film(story_id)))
        if shot_id is not None:
            exporter.only(shot_id)

    async def export(
        self, story_id: str, name: str, kind: str, job: Job, shot_id: str | None = None
    ) -> Response:
        """A film, or one shot of it, as a file of the media type `kind`, made by `job`.

        Raises:
            Refusal: There is nothing to export, too much is exported already, a take is damaged, or the disk
                does not take the file.
        """
        view = await self.worker.ask(lambda studio: studio.film(story_id))
        if self._num_exporting >= self.tools.limits.exports:
            raise Refusal("busy", f"{self._num_exporting} exports are being made; try again")
        if self._num_files >= self.tools.limits.export_files:
            raise Refusal("busy", f"{self._num_files} exports are being fetched; try again")
        try:
            descriptor, made = tempfile.mkstemp(dir=self._exports_dir, suffix=Path(name).suffix)
        except OSError as error:
            raise Refusal("storage", f"the export cannot be written: {explain(error)}") from error
        os.close(descriptor)
        path = Path(made)

        def run() -> object:
            exporter = Exporter(self.tools, view)
            return job(exporter if shot_id is None else exporter.only(shot_id), path)

        def ended() -> None:
            self._num_files -= 1
            path.unlink(missing_ok=True)

        self._num_exporting += 1
        self._num_files += 1
        try:
            given = await run_in_threadpool(run)
        except BaseException as error:
            ended()
            if isinstance(error, TakeDamaged):
                raise await self.mend(story_id, error) from error
            if isinstance(error, OSError):
                raise Refusal("storage", f"the export cannot be written: {explain(error)}") from error
            raise
        finally:
            self._num_exporting -= 1
        name = given if isinstance(given, str) else name
        return Handover(path, kind, filename=name, ended=ended)


async def _of_application(request: Request) -> Services:
    return request.app.state.services


Serving = Annotated[Services, Depends(_of_application)]
"""The services of the application that a request came to."""
