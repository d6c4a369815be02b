"""What a directory of multi-shot clips holds: which video, which captions, where each shot begins and ends.

Two forms. The published one, which other trainers read, is a CSV with the columns `json_path`, `video_path`,
`frame_number` (a Python list of half-open frame ranges, one per shot) and `shot_num_from_caption`, plus one
caption JSON per clip. Ours is JSON Lines, one self-contained clip per line. Paths are relative to the
manifest's directory; it never looks into a video.
"""

import ast
import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from shotstream.story import Story, StoryError, read_story, story_from_document

FORMAT = "shotstream-clip/1"
_CSV_COLUMNS = ("json_path", "video_path", "frame_number", "shot_num_from_caption")
_MAX_RANGES_CHARS = 100_000


class ManifestError(ValueError):
    """A manifest that cannot be read; the message names the file and the line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """One multi-shot video and what is said of it.

    Raises:
        ValueError: when the ranges are empty, overlap, run backwards or outnumber the captions.
    """

    video: Path
    """The video file."""
    story: Story
    """The captions; shots beyond the last range are not in the video."""
    shot_ranges: tuple[tuple[int, int], ...]
    """Half-open frame ranges, one per shot, in time order; gaps between them belong to no shot."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.shot_ranges) <= len(self.story.shots):
            raise ValueError(
                f"{len(self.shot_ranges)} frame ranges for {len(self.story.shots)} shot captions"
            )
        previous_end = 0
        for start, end in self.shot_ranges:
            if not previous_end <= start < end:
                raise ValueError(f"frame range [{start}, {end}) is empty or overlaps the one before")
            previous_end = end

    @property
    def num_frames(self) -> int:
        """Frames the video must have at least."""
        return self.shot_ranges[-1][1]


def read_manifest(path: Path) -> Iterator[Clip]:
    """The clips of a published CSV (`.csv`) or of our JSON Lines (any other suffix), one at a time.

    Raises:
        ManifestError: at the first line that is wrong; nothing is skipped.
    """
    return _read_csv(path) if path.suffix.lower() == ".csv" else _read_jsonl(path)


def write_manifest(path: Path, clips: Iterable[Clip]) -> None:
    """Writes our JSON Lines; videos are named relative to the manifest where they lie below it."""
    with path.open("w", encoding="utf-8") as file:
        for clip in clips:
            entry = {
                "format": FORMAT,
                "video": _relative(clip.video, path.parent),
                "shot_ranges": clip.shot_ranges,
                "story": clip.story.to_document(),
            }
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")


def write_published(path: Path, clips: Iterable[Clip]) -> None:
    """Writes the published CSV, and beside each video its caption JSON (same name, suffix `.json`).

    Titles, seeds and lengths have no place in the published form and are lost.
    """
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, _CSV_COLUMNS)
        writer.writeheader()
        for clip in clips:
            captions = clip.video.with_suffix(".json")
            text = json.dumps(clip.story.to_published_document(), ensure_ascii=False, indent=2)
            captions.write_text(text + "\n", encoding="utf-8")
            writer.writerow(
                {
                    "json_path": _relative(captions, path.parent),
                    "video_path": _relative(clip.video, path.parent),
                    "frame_number": str([list(span) for span in clip.shot_ranges]),
                    "shot_num_from_caption": len(clip.story.shots),
                }
            )


def _read_csv(path: Path) -> Iterator[Clip]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        missing = {"json_path", "video_path", "frame_number"} - set(reader.fieldnames or ())
        if missing:
            raise ManifestError(f"{path}: column {sorted(missing)[0]!r} is missing")
        for row in reader:
            try:
                yield Clip(
                    video=path.parent / row["video_path"],
                    story=read_story(path.parent / row["json_path"]),
                    shot_ranges=_ranges(_literal(row["frame_number"])),
                )
            except (ValueError, TypeError) as error:
                raise ManifestError(f"{path}: line {reader.line_num}: {error}") from error


def _read_jsonl(path: Path) -> Iterator[Clip]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                entry = json.loads(line)
                if not isinstance(entry, dict) or cast("dict[str, Any]", entry).get("format") != FORMAT:
                    raise ManifestError(f"no entry of the format {FORMAT!r}")
                clip = cast("dict[str, Any]", entry)
                yield Clip(
                    video=path.parent / clip["video"],
                    story=story_from_document(clip["story"]),
                    shot_ranges=_ranges(clip["shot_ranges"]),
                )
            except KeyError as error:
                raise ManifestError(f"{path}: line {number}: {error} is missing") from error
            except (ValueError, TypeError, StoryError) as error:
                raise ManifestError(f"{path}: line {number}: {error}") from error


def _literal(text: str) -> object:
    if len(text) > _MAX_RANGES_CHARS:
        raise ManifestError(f"frame_number has {len(text)} characters; at most {_MAX_RANGES_CHARS} are read")
    try:
        return ast.literal_eval(text)
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ManifestError("frame_number is no list of frame ranges such as [[0, 33], [33, 66]]") from error


def _ranges(value: object) -> tuple[tuple[int, int], ...]:
    spans = cast("list[Any]", value if isinstance(value, list | tuple) else [None])
    for span in spans:
        if not isinstance(span, list | tuple) or [type(end) for end in cast("list[Any]", span)] != [int, int]:
            raise ManifestError(f"frame ranges are {str(spans)[:60]}; write [[first, past the last], ...]")
    return tuple((start, end) for start, end in spans)


def _relative(path: Path, directory: Path) -> str:
    return path.relative_to(directory).as_posix() if path.is_relative_to(directory) else str(path)
