"""A studio without threads: tests call the worker's steps themselves, and read what viewers are sent."""

from pathlib import Path
from typing import Any

from shotstream.model.student_rules import StudentRules
from shotstream.studio.app_context import AppContext
from shotstream.studio.ids import new_id
from shotstream.studio.limits import Limits
from shotstream.studio.media_store import MediaStore
from shotstream.studio.metrics import Metrics
from shotstream.studio.open_story import OpenStory
from shotstream.studio.schemas.server_messages import FROM_SERVER, Done, Error, Media
from shotstream.studio.schemas.state import StoryState
from shotstream.studio.schemas.viewer_messages import FROM_VIEWER
from shotstream.studio.story_manager import StoryManager
from shotstream.studio.story_store import StoryStore
from shotstream.studio.viewer import Outbox, Viewer
from shotstream.vae.codec import StreamDecoder
from tests.streaming.tiny import tiny_pipeline
from tests.studio.database import write_empty_database

GLOBAL_CAPTION = "a forest night"
CAPTIONS = ("a fox walks", "a fox sleeps", "a owl flies", "a owl sleeps")


class RecordingOutbox(Outbox):
    """An outbox that records what one viewer was sent."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.pictures: list[bytes] = []
        self.code: int | None = None
        self.is_full = False

    def put(self, text: str, picture: bytes | None = None) -> bool:
        if picture is not None and self.is_full:
            return False
        self.messages.append(FROM_SERVER.validate_json(text))
        if picture is not None:
            self.pictures.append(picture)
        return True

    def close(self, code: int) -> None:
        self.code = code

    def of(self, kind: type[Any]) -> list[Any]:
        return [message for message in self.messages if isinstance(message, kind)]


class StudioHarness:
    """A studio with a tiny model, one open story and one viewer."""

    def __init__(
        self,
        folder: Path,
        *,
        limits: Limits | None = None,
        seed: int = 0,
        num_shots: int = 3,
        preview: StreamDecoder | None = None,
        policy: str | None = None,
        reads: bool = False,
        rules: StudentRules | None = None,
    ) -> None:
        self.pipeline = tiny_pipeline(seed=seed, reads=reads, rules=rules)
        write_empty_database(folder / "stories.sqlite")
        self.store = StoryStore(f"sqlite:///{folder / 'stories.sqlite'}")
        self.store.upgrade()
        self.media = MediaStore(folder / "media", self.pipeline)
        self.app = AppContext(
            self.pipeline,
            self.store,
            self.media,
            limits or Limits(look_ahead_s=1000.0),
            Metrics(),
            1,
            preview,
        )
        self.manager = StoryManager(self.app)
        known = self.store.load_stories()
        self.story_id = known[-1].story_id if known else self.create_story(num_shots, policy=policy)
        self.outbox = RecordingOutbox()
        self.viewer = self.add_viewer(self.outbox)
        self._num_sent = 0

    def create_story(self, num_shots: int = 3, *, autoplay: bool = True, policy: str | None = None) -> str:
        shots = [FROM_VIEWER.validate_python(add_shot(caption)) for caption in CAPTIONS[:num_shots]]
        created = self.manager.create_story(
            "A fox",
            GLOBAL_CAPTION,
            [add.shot for add in shots],
            seed=7,
            autoplay=autoplay,
            context_policy=policy,
        )
        return created.story_id

    def add_viewer(self, outbox: RecordingOutbox) -> Viewer:
        return self.manager.add_viewer(self.story_id, new_id(), outbox)

    @property
    def open_story(self) -> OpenStory:
        return self.manager._stories[self.story_id]

    @property
    def story(self) -> StoryState:
        """The state that the viewer was sent last."""
        from shotstream.studio.schemas.server_messages import Story

        return self.outbox.of(Story)[-1].story

    @property
    def statuses(self) -> list[str]:
        return [shot.status for shot in self.story.shots]

    def take_ids(self) -> list[str | None]:
        return [shot.take_id for shot in self.story.shots]

    def frame_hashes(self) -> list[tuple[str, ...]]:
        """The hashes of the film's frames, shot by shot."""
        takes = self.open_story.history.takes
        return [takes[take_id].frame_sha256 for take_id in self.take_ids() if take_id is not None]

    def run(self, most: int = 1000) -> int:
        """Generates chunks until there is nothing to do; returns how many."""
        for number in range(most):
            if not self.manager.make_next_chunk():
                return number
        return most

    def send_ok(self, type_: str, **fields: Any) -> Done:
        answer = self.send(type_, **fields)
        assert isinstance(answer, Done), answer
        return answer

    def send_refused(self, type_: str, **fields: Any) -> Error:
        before = self.open_story.shot_list
        answer = self.send(type_, **fields)
        assert isinstance(answer, Error), answer
        assert self.open_story.shot_list == before
        return answer

    def send(self, type_: str, **fields: Any) -> Done | Error:
        self._num_sent += 1
        message = {"type": type_, "id": str(self._num_sent), **fields}
        self.manager.handle_control(self.story_id, self.viewer, FROM_VIEWER.validate_python(message))  # pyright: ignore
        answer = self.outbox.messages[-1]
        assert answer.reply_to == str(self._num_sent)
        return answer

    def report_playhead(
        self, take_id: str | None, frame_index: int, *, playing: bool = True, viewer: Viewer | None = None
    ) -> None:
        at = None if take_id is None else {"take_id": take_id, "frame_index": frame_index}
        report = FROM_VIEWER.validate_python({"type": "playhead", "at": at, "playing": playing})
        self.manager.handle_report(self.story_id, viewer or self.viewer, report)  # pyright: ignore

    def media_of(self, take_id: str) -> list[Media]:
        return [media for media in self.outbox.of(Media) if media.take_id == take_id]

    def close(self) -> None:
        self.manager.close()
        self.store.close()


def add_shot(caption: str, **fields: Any) -> dict[str, Any]:
    return {"type": "add_shot", "id": "0", "shot": {"caption": caption, **fields}}
