"""FastAPI dependencies: the `Backend` that route functions are given."""

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
from shotstream.studio.exporter import Exporter
from shotstream.studio.media_store import CorruptTakeError
from shotstream.studio.storage_errors import explain_failure
from shotstream.studio.take_record import TakeRecord
from shotstream.studio.worker import Worker

ExportWriter = Callable[[Exporter, Path], object]
"""Function that writes an export to a path. If it returns text, that is the download's file name."""


class Backend:
    """The backend of the routes: the application context, the worker, and exports.

    Args:
        app: The application context.
        worker: The worker thread.
        exports_dir: The directory of export files that are not downloaded yet.
    """

    def __init__(self, app: AppContext, worker: Worker, exports_dir: Path) -> None:
        self.app = app
        self.worker = worker
        self._exports_dir = exports_dir
        self._num_exporting = self._num_files = 0

    async def start_repair(self, story_id: str, damage: CorruptTakeError) -> ApiError:
        """Starts the repair of a corrupt take, and returns the error for whoever requested it."""
        await self.worker.call(lambda manager: manager.repair_take(story_id, damage.take_id))
        return ApiError("busy", "the files of this take are damaged and are being repaired; try again soon")

    async def get_take(self, story_id: str, take_id: str) -> TakeRecord:
        """Returns the record of a take; raises ApiError if the story has no such take."""
        record = await run_in_threadpool(self.app.store.get_take, story_id, take_id)
        if record is None:
            raise ApiError("not_found", "this story has no such take")
        return record

    async def check_film_exists(self, story_id: str, shot_id: str | None = None) -> None:
        """Raises ApiError if there is nothing to export of a story, or of one of its shots."""
        exporter = Exporter(self.app, await self.worker.call(lambda manager: manager.film_snapshot(story_id)))
        if shot_id is not None:
            exporter.for_shot(shot_id)

    async def export(
        self, story_id: str, name: str, media_type: str, write: ExportWriter, shot_id: str | None = None
    ) -> Response:
        """Writes an export of a film, or of one shot, and returns it as a download.

        Args:
            story_id: The story.
            name: The file name of the download.
            media_type: Its media type.
            write: Writes the file.
            shot_id: Export this shot alone.

        Raises:
            ApiError: There is nothing to export, too many exports run already, a take is corrupt, or the disk
                cannot be written.
        """
        view = await self.worker.call(lambda manager: manager.film_snapshot(story_id))
        if self._num_exporting >= self.app.limits.exports:
            raise ApiError("busy", f"{self._num_exporting} exports are being written; try again later")
        if self._num_files >= self.app.limits.export_files:
            raise ApiError("busy", f"{self._num_files} exports are being downloaded; try again later")
        try:
            descriptor, made = tempfile.mkstemp(dir=self._exports_dir, suffix=Path(name).suffix)
        except OSError as error:
            raise ApiError("storage", f"the export cannot be written: {explain_failure(error)}") from error
        os.close(descriptor)
        path = Path(made)

        def run() -> object:
            exporter = Exporter(self.app, view)
            return write(exporter if shot_id is None else exporter.for_shot(shot_id), path)

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
                raise await self.start_repair(story_id, error) from error
            if isinstance(error, OSError):
                raise ApiError(
                    "storage", f"the export cannot be written: {explain_failure(error)}"
                ) from error
            raise
        finally:
            self._num_exporting -= 1
        name = given if isinstance(given, str) else name
        return DownloadResponse(path, media_type, filename=name, on_finished=ended)


async def _get_backend(request: Request) -> Backend:
    return request.app.state.backend


BackendDep = Annotated[Backend, Depends(_get_backend)]
"""The backend of the app that received the request."""
