"""Manifests of multi-shot clips: the videos, their captions, and the frame range of each shot.

There are two forms. The published one, which other trainers read, is a CSV with the columns `json_path`,
`video_path`, `frame_number` (a Python list of half-open frame ranges, one per shot) and
`shot_num_from_caption`, and one caption JSON per clip. ShotStream's own is JSON Lines, one self-contained
clip per line. Relative paths are resolved against the manifest's directory, then against the working
directory. Videos are not opened.
"""

import csv
import json
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from shotstream.documents import (
    DocumentError,
    iter_lines,
    iter_table,
    parse_json,
    shorten,
    shown,
    whole_number,
)
from shotstream.story import Story, read_story, story_from_document

FORMAT = "shotstream-clip/1"
_CSV_COLUMNS = ("json_path", "video_path", "frame_number", "shot_num_from_caption")
_REQUIRED = _CSV_COLUMNS[:3]
_ENTRY_KEYS = ("format", "video", "shot_ranges", "story")
_FORMS = "a manifest is a CSV, or JSON Lines with a whole clip in each line: docs/data.md"
_MAX_TOLD = 3
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")


class ManifestError(ValueError):
    """A manifest that cannot be read; the message names the file and the line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """A multi-shot video with its captions and the frame ranges of its shots.

    Raises:
        ValueError: The ranges are empty, overlap, are not ascending or are more than the captions.
    """

    video: Path
    """Path of the video file."""
    story: Story
    """The captions; shots after the last range are not in the video."""
    shot_ranges: tuple[tuple[int, int], ...]
    """Half-open frame ranges, one per shot, in time order; gaps between them belong to no shot."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.shot_ranges) <= len(self.story.shots):
            raise ValueError(
                f"{len(self.shot_ranges)} frame ranges for {len(self.story.shots)} shot captions"
            )
        previous_end = 0
        for start, end in self.shot_ranges:
            if start < 0:
                raise ValueError(f"frame range [{start}, {end}) begins before the first frame, which is 0")
            if not previous_end <= start < end:
                raise ValueError(f"frame range [{start}, {end}) is empty or overlaps the one before")
            previous_end = end

    @property
    def num_frames(self) -> int:
        """Minimum number of frames that the video must have."""
        return self.shot_ranges[-1][1]


def read_manifest(path: Path, warn: Callable[[str], None] | None = None) -> Iterator[Clip]:
    """Yields the clips of a table (`.csv`, `.tsv`, or by its first line) or of JSON Lines, one at a time.

    Args:
        path: The manifest.
        warn: Called after the last clip, with the parts of the manifest and its captions that were ignored.

    Raises:
        ManifestError: A line is invalid; only empty lines are skipped.
    """
    told: dict[str, None] = {}
    try:
        yield from (_table_clips if _is_table(path) else _line_clips)(path, told)
    except DocumentError as error:
        raise ManifestError(f"{path}: {error}") from error
    if told and warn:
        more = f"; and {len(told) - _MAX_TOLD} more such lines" if len(told) > _MAX_TOLD else ""
        warn(f"{path}: {'; '.join(list(told)[:_MAX_TOLD])}{more}")


def write_manifest(path: Path, clips: Iterable[Clip]) -> None:
    """Writes ShotStream's JSON Lines; videos below the manifest's directory have relative paths."""
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


def _is_table(path: Path) -> bool:
    if path.suffix.lower() in (".csv", ".tsv"):
        return True
    first = next((line for _, line in iter_lines(path) if line.strip()), "").lower()
    return all(name in first for name in _REQUIRED) and not first.lstrip().startswith(("{", "["))


def _table_clips(path: Path, told: dict[str, None]) -> Iterator[Clip]:
    for line, row in iter_table(path, _REQUIRED):
        with _line_of(path, line):
            _tell_unread(row, _CSV_COLUMNS, "columns", told)
            story = read_story(_found(row["json_path"], "json_path", path.parent))
            _tell(story, told)
            clip = Clip(
                video=_found(row["video_path"], "video_path", path.parent),
                story=story,
                shot_ranges=_ranges(_listed(row["frame_number"]), "frame_number"),
            )
        yield clip


def _line_clips(path: Path, told: dict[str, None]) -> Iterator[Clip]:
    for line, text in iter_lines(path):
        if not text.strip():
            continue
        with _line_of(path, line):
            try:
                entry = parse_json(text.strip())
            except DocumentError as error:
                raise ManifestError(f"{str(error).removeprefix('line 1: ')} ({_FORMS})") from error
            if not isinstance(entry, dict) or cast("dict[str, Any]", entry).get("format") != FORMAT:
                raise ManifestError(
                    f"no entry of the format {FORMAT!r}, with {', '.join(_ENTRY_KEYS)} ({_FORMS})"
                )
            values = cast("dict[str, Any]", entry)
            if missing := [key for key in _ENTRY_KEYS if key not in values]:
                raise ManifestError(f"'{missing[0]}' is missing")
            _tell_unread(values, _ENTRY_KEYS, "keys", told)
            story = story_from_document(values["story"])
            _tell(story, told)
            clip = Clip(
                video=_found(values["video"], "video", path.parent),
                story=story,
                shot_ranges=_ranges(values["shot_ranges"], "shot_ranges"),
            )
        yield clip


@contextmanager
def _line_of(path: Path, line: int) -> Generator[None]:
    """Adds the line number to errors in its block."""
    try:
        yield
    except ValueError as error:
        raise ManifestError(f"{path}: line {line}: {error}") from error


def _tell(story: Story, told: dict[str, None]) -> None:
    # The lengths are for a film to be generated, not for the existing video.
    told.update(dict.fromkeys(line for line in story.warnings if not line.startswith("frames_per_shot")))


def _tell_unread(
    entry: Mapping[str, object], known: tuple[str, ...], kind: str, told: dict[str, None]
) -> None:
    if unread := [f"'{shorten(key)}'" for key in entry if key and key not in known]:
        told[f"{kind} that are not read: {', '.join(unread[:5])}"] = None


def _found(name: object, what: str, directory: Path) -> Path:
    """Returns the file of a name: beside the manifest, else in the working directory; if missing, beside."""
    if not isinstance(name, str) or not name.strip():
        raise ManifestError(f"{what} is {shown(name) or 'empty'}; write the name of a file")
    if bad := re.search("[\\x00-\\x1f\\x7f\\ud800-\\udfff]", name):
        raise ManifestError(f"{what} holds the character U+{ord(bad[0]):04X}; write the name of a file")
    # As written, then with Windows' separators.
    names = list(dict.fromkeys((name, name.replace("\\", "/"))))
    for spelled in names:
        for place in (directory / spelled, Path(spelled)):
            if _is_there(place):
                return place
    if _ADDRESS.match(name):
        raise ManifestError(f"{what} is the address {shorten(name, 80)!r}; download it and name the file")
    return directory / names[-1]


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise ManifestError(f"{shorten(str(path), 80)}: cannot be read: {error.strerror}") from error


def _listed(cell: str) -> object:
    """Returns the list in a cell, as Python writes it: ranges in brackets of either kind."""
    try:
        return parse_json(cell.replace("(", "[").replace(")", "]").replace(",]", "]"))
    except DocumentError as error:
        raise ManifestError(
            f"frame_number is {shorten(cell)!r}: no list of frame ranges such as [[0, 33], [33, 66]]"
        ) from error


def _ranges(value: object, what: str) -> tuple[tuple[int, int], ...]:
    spans = cast("list[object]", value) if isinstance(value, list) else [value]
    ranges: list[tuple[int, int]] = []
    for span in spans:
        ends = cast("list[object]", span) if isinstance(span, list) else []
        numbers = [
            number for end in ends if not isinstance(end, str) and (number := whole_number(end)) is not None
        ]
        if len(ends) != 2 or len(numbers) != 2:
            raise ManifestError(
                f"{what} holds {shorten(json.dumps(span))}; write [[first, past the last], ...]"
            )
        ranges.append((numbers[0], numbers[1]))
    return tuple(ranges)


def _relative(path: Path, directory: Path) -> str:
    return path.relative_to(directory).as_posix() if path.is_relative_to(directory) else str(path)
