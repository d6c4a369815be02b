"""Timelines for editing programs: the cuts of a film as CMX 3600 EDL, FCPXML and OpenTimelineIO.

They are written by OpenTimelineIO and its adapters, with one clip per shot. Editing programs support few
frame rates, and 12 and 16 frames per second are not among them. The timeline and its clips therefore have a
supported rate: film frames are repeated, none is left out and none is blended. If the rate is a multiple (12:
24), each frame is repeated equally often, and every cut and every length in seconds is exact. If it is not
(16), the rate is 24, film frames last one and two timeline frames in turn, and a cut is at the frame nearest
to its time: at most 1/48 second off, however long the film is. The rate 48 would be exact, but FCPXML's
adapter does not support it.

The timeline begins at 00:00:00:00, as the film does, and so does each clip. A clip has the name of its file.
An EDL is ASCII: titles and captions are transliterated in it where possible, and are complete in the other
two formats.
"""

import unicodedata
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from jaxtyping import Int, UInt8
from opentimelineio import adapters, schema
from opentimelineio.opentime import RationalTime, TimeRange

from shotstream.film.wrapping import one_line, shorten
from shotstream.video.video_io import H264Settings, Mp4Writer

EDITING_RATES = (24, 25, 30, 50, 60)
"""Rates that both EDL and FCPXML support, in whole frames per second."""

MAX_EDL_SHOTS = 999
_EDL_TITLE_CHARS, _EDL_COMMENT_CHARS = 60, 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Timeline:
    """The timeline of a film: its cuts, to be written in any of the formats."""

    title: str
    captions: tuple[str, ...]
    """The caption of each shot."""
    shot_num_frames: tuple[int, ...]
    """Length of each shot in film frames."""
    fps: int
    """Film frames per second."""

    @property
    def rate(self) -> int:
        """Frames per second of the timeline and of its clips."""
        multiples = [rate for rate in EDITING_RATES if rate % self.fps == 0]
        faster = [rate for rate in EDITING_RATES if rate >= self.fps]
        return (*multiples, *faster, EDITING_RATES[-1])[0]

    @property
    def cuts(self) -> tuple[int, ...]:
        """The first frame of each shot and, last, the end of the film, in timeline frames."""
        film_frames = np.cumsum([0, *self.shot_num_frames]).tolist()
        return tuple(round(Fraction(frame * self.rate, self.fps)) for frame in film_frames)

    def clip_name(self, shot_index: int) -> str:
        """Returns the file name of a shot's clip."""
        return f"shot_{shot_index + 1:03}.mp4"

    def film_frames(self, shot_index: int) -> Int[np.ndarray, " timeline_f"]:
        """Returns the index of the film frame in its shot, for each frame of the shot's clip."""
        start, end = self.cuts[shot_index : shot_index + 2]
        middles = 2 * np.arange(end - start) + 1
        last = self.shot_num_frames[shot_index] - 1
        return np.minimum(middles * self.fps // (2 * self.rate), last)

    def write_clip(
        self, path: Path, shot_index: int, frames: UInt8[np.ndarray, "f h w 3"], scale: int
    ) -> None:
        """Writes the clip of a shot: H.264 at the timeline's rate, with the caption as title."""
        order = self.film_frames(shot_index)
        title = one_line(self.captions[shot_index])
        with Mp4Writer(path, self.rate, H264Settings(scale=scale), title=title) as writer:
            writer.write(frames[order])

    def edl(self) -> str:
        """Returns the timeline as CMX 3600 EDL; raises ValueError for more shots than it can number."""
        if len(self.captions) > MAX_EDL_SHOTS:
            raise ValueError(f"an EDL has at most {MAX_EDL_SHOTS} cuts, and the film {len(self.captions)}")
        timeline = self._build()
        timeline.name = _ascii(shorten(one_line(self.title), _EDL_TITLE_CHARS)) or "FILM"
        text = adapters.write_to_string(timeline, "cmx_3600", rate=self.rate, style="avid")
        title, _, events = text.partition("\n")
        return "\n".join([title, "FCM: NON-DROP FRAME", events.rstrip()]) + "\n"

    def fcpxml(self, pixel_size: tuple[int, int]) -> str:
        """Returns the timeline as FCPXML 1.8, for clips of `pixel_size` (height, width)."""
        text = adapters.write_to_string(self._build(), "fcpx_xml")
        head, root = text.partition("<fcpxml")[0], ElementTree.fromstring(text)
        for video_format in root.iter("format"):
            # The adapter asks an external program for the size, and a format without a size has no meaning.
            video_format.attrib.pop("name", None)
            video_format.set("height", str(pixel_size[0]))
            video_format.set("width", str(pixel_size[1]))
        for project in root.iter("project"):
            project.attrib.pop("uid", None)
        ElementTree.indent(root, "    ")
        return head + ElementTree.tostring(root, encoding="unicode") + "\n"

    def otio(self) -> str:
        """Returns the timeline as OpenTimelineIO's JSON."""
        return adapters.write_to_string(self._build(), "otio_json")

    def _build(self) -> Any:
        timeline = schema.Timeline(name=one_line(self.title))
        timeline.global_start_time = RationalTime(0, self.rate)
        track = schema.Track(name="V1", kind=schema.TrackKind.Video)
        cuts = self.cuts
        for index, caption in enumerate(self.captions):
            length = cuts[index + 1] - cuts[index]
            span = TimeRange(RationalTime(0, self.rate), RationalTime(length, self.rate))
            name = self.clip_name(index)
            reference = schema.ExternalReference(target_url=name, available_range=span)
            reference.metadata["fcpx"] = {"note": one_line(caption)}
            comment = _ascii(shorten(one_line(caption), _EDL_COMMENT_CHARS))
            metadata = {
                "shotstream": {"caption": one_line(caption)},
                "cmx_3600": {"reel": f"SHOT{index + 1:03}", "comments": [f"COMMENT: {comment}"]},
            }
            track.append(
                schema.Clip(name=name, media_reference=reference, source_range=span, metadata=metadata)
            )
        timeline.tracks.append(track)
        return timeline


def _ascii(text: str) -> str:
    """Returns the text in ASCII: without accents, with plain dashes and quotes, and ? for other letters."""
    plain = one_line(text).translate(_TYPEWRITTEN)
    letters = (letter for letter in unicodedata.normalize("NFKD", plain) if not unicodedata.combining(letter))
    return "".join(letters).encode("ascii", "replace").decode("ascii")


_TYPEWRITTEN = str.maketrans(
    {"–": "-", "—": "-", "−": "-", "‘": "'", "’": "'", "“": '"', "”": '"', "„": '"', "…": "...", "→": "->"}
    | {"ß": "ss", "æ": "ae", "ø": "o", "œ": "oe", "ł": "l", "Ł": "L", "đ": "d"}
    | {"Æ": "AE", "Ø": "O", "Œ": "OE", "Đ": "D"}
)
