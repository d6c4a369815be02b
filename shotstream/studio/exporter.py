"""Exports of a film: MP4, GIF, subtitles, timelines, storyboard, story file, and replay file.

Exports are made from the lossless frames on disk, in threads beside the worker, because takes never change. A
replay file is only given for a film that `shotstream generate` reproduces frame by frame; see `replay`.
"""

import io
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import yaml
from jaxtyping import UInt8
from PIL import Image

from shotstream.film.replay import Environment, FilmPlan, Pins, Replay
from shotstream.film.storyboard import Panel, draw_storyboard
from shotstream.film.subtitles import subtitles, told_parts, web_subtitles
from shotstream.film.timeline import MAX_EDL_SHOTS, Timeline
from shotstream.film.wrapping import one_line, shorten
from shotstream.story import Reference, Shot, Story
from shotstream.studio.api_error import ApiError
from shotstream.studio.app_context import AppContext
from shotstream.studio.shot_list import ShotList, stale_reasons
from shotstream.studio.take_record import TakeRecord
from shotstream.video.video_io import Chapter, H264Settings, Mp4Writer

_MIN_HEIGHT_PX = 384
_GIF_HEIGHT_PX = 192
_CAPTION_CHARS = 70


@dataclass(frozen=True, kw_only=True, slots=True)
class FilmSnapshot:
    """The film of a story at one moment."""

    story_id: str
    seed: int
    shot_list: ShotList
    takes: Mapping[str, TakeRecord]

    @property
    def chosen_takes(self) -> list[TakeRecord]:
        """The records of the chosen takes, in order."""
        return [self.takes[take_id] for take_id in self.shot_list.take_ids()]


class Exporter:
    """Writes a film, or one shot of it, in every export format.

    Raises:
        ApiError: The film has no take yet.
    """

    def __init__(self, app: AppContext, snapshot: FilmSnapshot) -> None:
        self._app = app
        self._snapshot = snapshot
        self._takes = snapshot.chosen_takes
        self._fps = app.pipeline.fps
        if not self._takes:
            raise ApiError("refused", "the film has no finished shot yet")

    def for_shot(self, shot_id: str) -> "Exporter":
        """Returns the exporter of one shot alone; raises ApiError if it has no take."""
        one = Exporter(self._app, self._snapshot)
        one._takes = [take for take in self._takes if take.shot_id == shot_id]
        if not one._takes:
            raise ApiError("not_found", "the film has no such shot")
        return one

    @property
    def _scale(self) -> int:
        return max(1, _MIN_HEIGHT_PX // self._app.pipeline.pixel_size.height)

    def mp4(self, path: Path) -> None:
        """Writes the film as MP4, with a chapter for each shot."""
        chapters: list[Chapter] = []
        start = 0
        for number, take in enumerate(self._takes, start=1):
            title = f"{number}. {shorten(one_line(take.caption), _CAPTION_CHARS)}"
            chapters.append(Chapter(title=title, start_frame=start, end_frame=start + take.num_frames))
            start += take.num_frames
        title = one_line(self._snapshot.shot_list.title)
        settings = H264Settings(scale=self._scale)
        with Mp4Writer(path, self._fps, settings, title=title, chapters=chapters) as writer:
            for take in self._takes:
                writer.write(self._frames(take))

    def clip(self, path: Path, shot_id: str) -> str:
        """Writes one shot as MP4 for the timelines, and returns the file name that they refer to.

        Raises:
            ApiError: The shot has no take.
        """
        for index, take in enumerate(self._takes):
            if take.shot_id == shot_id:
                self._timeline.write_clip(path, index, self._frames(take), self._scale)
                return self._timeline.clip_name(index)
        raise ApiError("not_found", "the film has no such shot")

    def gif(self, path: Path) -> None:
        """Writes the film as an endless GIF; raises ApiError if it is too long."""
        num_frames = sum(take.num_frames for take in self._takes)
        most = self._app.limits.gif_frames
        if num_frames > most:
            raise ApiError(
                "limit", f"{num_frames} frames; a GIF has at most {most} here: export a shot, or MP4"
            )
        scale = max(1, _GIF_HEIGHT_PX // self._app.pipeline.pixel_size.height)
        pictures = [
            Image.fromarray(frame).quantize(dither=Image.Dither.NONE)
            for take in self._takes
            for frame in self._frames(take)
        ]
        pictures = [
            picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
            for picture in pictures
        ]
        # GIF has a resolution of 10 ms: each frame ends at the nearest multiple.
        ends = [round(100 * (index + 1) / self._fps) * 10 for index in range(len(pictures))]
        lengths_ms = [end - start for start, end in zip([0, *ends], ends, strict=False)]
        pictures[0].save(
            path, format="gif", save_all=True, append_images=pictures[1:], duration=lengths_ms, loop=0
        )

    def srt(self) -> str:
        """Returns the captions as SubRip subtitles."""
        captions, lengths = self._told_parts
        return subtitles(captions, lengths, self._fps)

    def vtt(self) -> str:
        """Returns the captions as WebVTT subtitles."""
        captions, lengths = self._told_parts
        return web_subtitles(captions, lengths, self._fps)

    def edl(self) -> str:
        """Returns the cuts as a CMX 3600 EDL; raises ApiError for more shots than it can number."""
        try:
            return self._timeline.edl()
        except ValueError as error:
            raise ApiError("limit", f"{error}; take film.fcpxml or film.otio") from error

    def fcpxml(self) -> str:
        """Returns the cuts as FCPXML."""
        size = self._app.pipeline.pixel_size
        # Sizes of H.264 with 4:2:0 chroma are even.
        height, width = (
            length * self._scale + length * self._scale % 2 for length in (size.height, size.width)
        )
        return self._timeline.fcpxml((height, width))

    def otio(self) -> str:
        """Returns the cuts as OpenTimelineIO's JSON."""
        return self._timeline.otio()

    def editing_zip(self, path: Path) -> None:
        """Writes a ZIP for an editing program: one clip for each shot, and the timelines."""
        with zipfile.ZipFile(path, "w") as archive:
            for name, make in (
                ("film.fcpxml", self.fcpxml),
                ("film.otio", self.otio),
                ("film.srt", self.srt),
            ):
                archive.writestr(name, make())
            if len(self._takes) <= MAX_EDL_SHOTS:
                archive.writestr("film.edl", self.edl())
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                for take in self._takes:
                    clip = Path(folder) / "clip.mp4"
                    name = self.clip(clip, take.shot_id)
                    archive.write(clip, name)

    def storyboard(self) -> bytes:
        """Returns the storyboard as PNG: a page with a picture of each shot."""
        panels = [
            Panel(
                picture=self._app.media.read_frame(self._snapshot.story_id, take, take.num_frames // 2),
                caption=_in_one(take),
                duration_s=float(take.num_frames / Fraction(self._fps)),
            )
            for take in self._takes
        ]
        data = io.BytesIO()
        shot_list = self._snapshot.shot_list
        draw_storyboard(shot_list.title, shot_list.global_caption, panels).save(data, format="png")
        return data.getvalue()

    def story_yaml(self) -> str:
        """Returns the film as a story file (YAML), with the lengths and seeds of its takes."""
        return yaml.safe_dump(
            self._story(self._references()).to_document(), allow_unicode=True, sort_keys=False
        )

    def replay(self) -> str:
        """Returns the replay file (JSON).

        Raises:
            ApiError: The film would not be reproduced: a shot is stale or missing, or was generated by
                another model or on another machine than the others.
        """
        shot_list, takes = self._snapshot.shot_list, self._snapshot.takes
        for number, shot in enumerate(shot_list.shots, start=1):
            if shot.take_id is None:
                if any(later.take_id is not None for later in shot_list.shots[number:]):
                    raise ApiError(
                        "refused", f"shot {number} is not generated yet; generate it, or remove it"
                    )
                continue
            if {"context", "cast"} & set(stale_reasons(shot_list, number - 1, takes)):
                raise ApiError("refused", f"shot {number} is stale; generate it again")
            if takes[shot.take_id].global_caption != shot_list.global_caption:
                raise ApiError(
                    "refused",
                    f"shot {number} was generated with another global caption; generate it again",
                )
        first = self._takes[0]
        for number, take in enumerate(self._takes, start=1):
            if _origin(take) != _origin(first):
                raise ApiError(
                    "refused",
                    f"shots 1 and {number} were generated by different models or on different machines; "
                    "generate the older ones again",
                )
        pipeline = self._app.pipeline
        if first.weights_sha256 != pipeline.weights_sha256:
            raise ApiError("refused", "the film was generated with other weights; generate its shots again")
        plan = FilmPlan(
            model_id=pipeline.model_id,
            weights_sha256=first.weights_sha256,
            context_policy=pipeline.usable_policy(shot_list.context_policy),
            num_steps=first.num_steps,
            seed=self._snapshot.seed,
            story=self._story(self._references()),
            pins=self._pins(),
        )
        return Replay(
            plan=plan,
            environment=Environment(**first.environment),
            frame_sha256=tuple(take.frame_sha256 for take in self._takes),
        ).to_json()

    def _pins(self) -> tuple[Pins, ...]:
        """Returns the pinned frames that conditioned each shot; empty if none did."""
        film = [take.take_id for take in self._takes]
        pins = tuple(
            tuple(
                (film.index(frame.take_id), frame.frame_index)
                for frame in take.context
                if frame.pin_id is not None
            )
            for take in self._takes
        )
        return pins if any(pins) else ()

    @property
    def _told_parts(self) -> tuple[list[str], list[int]]:
        """All captions of the film, and the frames that each lasts."""
        lengths = [take.num_frames for take in self._takes]
        return told_parts(self._story().shots, lengths, self._app.num_frames)

    def _references(self) -> tuple[Reference, ...]:
        """Returns the references that have a picture, which is a part of them."""
        store, story_id = self._app.store, self._snapshot.story_id
        images = (
            (entry, store.picture(story_id, entry.picture_id or ""))
            for entry in self._snapshot.shot_list.cast
        )
        return tuple(entry.as_reference(image) for entry, image in images if image is not None)

    def _story(self, references: tuple[Reference, ...] = ()) -> Story:
        return Story(
            references=references,
            title=self._snapshot.shot_list.title,
            global_caption=self._snapshot.shot_list.global_caption,
            shots=tuple(
                Shot(caption=take.caption, num_chunks=take.num_chunks, seed=take.seed, then=take.then)
                for take in self._takes
            ),
        )

    def _frames(self, take: TakeRecord) -> UInt8[np.ndarray, "f h w 3"]:
        return self._app.media.read_frames(self._snapshot.story_id, take)

    @property
    def _timeline(self) -> Timeline:
        return Timeline(
            title=self._snapshot.shot_list.title,
            captions=tuple(map(_in_one, self._takes)),
            shot_num_frames=tuple(take.num_frames for take in self._takes),
            fps=self._fps,
        )


def _in_one(take: TakeRecord) -> str:
    """Returns all captions of a take in one text."""
    return " / ".join(take.captions)


def _origin(take: TakeRecord) -> tuple[object, ...]:
    """Returns the properties that all takes of a replay must share."""
    return take.weights_sha256, take.num_steps, take.environment
