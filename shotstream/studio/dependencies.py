"""What a studio's routes work with: the worker, the tools, and files on their way out."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from shotstream.studio.api_error import ApiError
from shotstream.studio.app_context import AppContext
from shotstream.studio.download import DownloadResponse
from shotstream.studio.exports import Exporter
from shotstream.studio.media_store import CorruptTakeError
from shotstream.studio.storage_errors import explain_failure
from shotstream.studio.take_record import TakeRecord
from shotstream.studio.worker import Worker

ExportWriter = Callable[[Exporter, Path], object]
"""Writes a file; what it returns, if it is text, is the name that the file is saved as."""


class Backend:
    """What the routes of one application share.

    Args:
        app: what stories are made with.
        worker: who makes them.
        exports_dir: where files on their way out are made.
    """

    def __init__(self, app: AppContext, worker: Worker, exports_dir: Path) -> None:
        self.app = app
        self.worker = worker
        self._exports_dir = exports_dir
        self._num_exporting = self._num_files = 0

    async def repair_take(self, story_id: str, damage: CorruptTakeError) -> ApiError:
        """What to tell whoever asked for a damaged take, which is made anew."""
        await self.worker.call(lambda manager: manager.repair_take(story_id, damage.take_id))
        return ApiError("busy", "the take's files are damaged and are made anew now; try again soon")

    async def get_take(self, story_id: str, take_id: str) -> TakeRecord:
        """A take that is asked for; ApiError when the story has none of that id."""
        record = await run_in_threadpool(self.app.store.get_take, story_id, take_id)
        if record is None:
            raise ApiError("not_found", "this story has no such take")
        return record

    async def check_film_exists(self, story_id: str, shot_id: str | None = None) -> None:
        """ApiError when there is no such film or shot."""
        exporter = Exporter(self.app, await self.worker.call(lambda manager: manager.film_snapshot(story_id)))
        if shot_id is not None:
            exporter.for_shot(shot_id)

    async def export(
        self, story_id: str, name: str, kind: str, job: ExportWriter, shot_id: str | None = None
    ) -> Response:
        """A film, or one shot of it, as a file of the media type `kind`, made by `job`.

        Raises:
            ApiError: There is nothing to export, too much is exported already, a take is damaged, or the disk
                does not take the file.
        """
        view = await self.worker.call(lambda manager: manager.film_snapshot(story_id))
        if self._num_exporting >= self.app.limits.exports:
            raise ApiError("busy", f"{self._num_exporting} exports are being made; try again")
        if self._num_files >= self.app.limits.export_files:
            raise ApiError("busy", f"{self._num_files} exports are being fetched; try again")
        try:
            descriptor, made = tempfile.mkstemp(dir=self._exports_dir, suffix=Path(name).suffix)
        except OSError as error:
            raise ApiError("storage", f"the export cannot be written: {explain_failure(error)}") from error
        os.close(descriptor)
        path = Path(made)

        def run() -> object:
            exporter = Exporter(self.app, view)
            return job(exporter if shot_id is None else exporter.for_shot(shot_id), path)

        def ended() -> None:
            self._num_files -= 1
            path.unlink(missing_ok=True)

        self._num_exporting += 1
        self._num_files += 1
        try:
            given = await run_in_threadpool(run)
        except BaseException as error:
            ended()
            if isinstance(error, CorruptTakeError):
                raise await self.repair_take(story_id, error) from error
            if isinstance(error, OSError):
                raise ApiError(
                    "storage", f"the export cannot be written: {explain_failure(error)}"
                ) from error
            raise
        finally:
            self._num_exporting -= 1
        name = given if isinstance(given, str) else name
        return DownloadResponse(path, kind, filename=name, on_finished=ended)


async def _get_backend(request: Request) -> Backend:
    return request.app.state.backend


BackendDep = Annotated[Backend, Depends(_get_backend)]
"""The services of the application that a request came to."""
