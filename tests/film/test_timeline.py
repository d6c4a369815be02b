"""Each form is opened by its own reader; the values are those of the film."""

from fractions import Fraction
from pathlib import Path
from xml.etree import ElementTree

import av
import numpy as np
import opentimelineio as otio
import pytest

from shotstream.film.timeline import EDITING_RATES, Timeline
from shotstream.video.video_io import read_frames
from tests.video.clip_files import frame_rate

TITLE = "A/B\\C \"q\" 's' <b> & 狐 Łódź — " + "x" * 200
CAPTIONS = (
    "A fox walks — slowly.",
    "* FROM CLIP NAME: other.mp4\n002  X V C 00:00:00:00 00:00:01:00 00:00:00:00 00:00:01:00",
    "狐が眠る <b> & \u200f مرحبا \x07",
    "x" * 2000,
)
LENGTHS = (21, 33, 9, 45)


def timeline(fps: int = 12, lengths: tuple[int, ...] = LENGTHS) -> Timeline:
    captions = (CAPTIONS * len(lengths))[: len(lengths)]
    return Timeline(title=TITLE, captions=captions, shot_num_frames=lengths, fps=fps)


def texts(made: Timeline) -> dict[str, str]:
    return {"cmx_3600": made.edl(), "fcpx_xml": made.fcpxml((384, 640)), "otio_json": made.otio()}


def read(form: str, text: str, rate: int) -> otio.schema.Timeline:
    return otio.adapters.read_from_string(text, form, **({"rate": rate} if form == "cmx_3600" else {}))


@pytest.mark.parametrize("form", ["cmx_3600", "fcpx_xml", "otio_json"])
@pytest.mark.parametrize(
    ("fps", "rate", "starts", "lengths"),
    [
        (12, 24, [0, 42, 108, 126], [42, 66, 18, 90]),
        # Cuts at 1.3125, 3.375, 3.9375 and 6.75 s: 31.5, 81, 94.5 and 162 frames.
        (16, 24, [0, 32, 81, 94], [32, 49, 13, 68]),
        (25, 25, [0, 21, 54, 63], [21, 33, 9, 45]),
        (10, 30, [0, 63, 162, 189], [63, 99, 27, 135]),
    ],
)
def test_readers_find_every_cut_to_the_frame_and_every_clip_by_its_files_name(
    form: str, fps: int, rate: int, starts: list[int], lengths: list[int]
) -> None:
    made = timeline(fps)
    assert made.rate == rate
    opened = read(form, texts(made)[form], rate)
    found = list(opened.find_clips())
    assert [clip.name for clip in found] == [f"shot_00{number}.mp4" for number in (1, 2, 3, 4)]
    assert [clip.media_reference.target_url for clip in found] == [clip.name for clip in found]
    spans = [clip.range_in_parent() for clip in found]
    assert [(span.start_time.value, span.start_time.rate) for span in spans] == [(s, rate) for s in starts]
    assert [clip.source_range.start_time.value for clip in found] == [0, 0, 0, 0]
    assert [(c.source_range.duration.value, c.source_range.duration.rate) for c in found] == [
        (length, rate) for length in lengths
    ]
    (track,) = opened.tracks
    assert len(track) == 4  # no gaps


def test_an_edl_is_ascii_with_short_reels_and_a_caption_is_a_comment_whatever_it_says() -> None:
    text = timeline().edl()
    lines = text.encode("ascii").decode().splitlines()
    assert lines[0].startswith("TITLE: A/B\\C \"q\" 's' <b> & ? Lodz - xxx") and len(lines[0]) < 75
    assert lines[1] == "FCM: NON-DROP FRAME"
    events = [line for line in lines if line[:3].isdigit()]
    assert [line.split()[1] for line in events] == ["SHOT001", "SHOT002", "SHOT003", "SHOT004"]
    assert events[3].endswith("00:00:00:00 00:00:03:18 00:00:05:06 00:00:09:00")
    assert "* COMMENT: A fox walks - slowly." in lines
    assert max(map(len, lines)) < 240


def test_titles_and_captions_are_whole_where_the_form_has_unicode() -> None:
    made = timeline()
    for form in ("fcpx_xml", "otio_json"):
        assert read(form, texts(made)[form], 24).name == TITLE
    opened = read("otio_json", made.otio(), 24)
    clips = list(opened.find_clips())
    assert clips[2].metadata["shotstream"]["caption"] == "狐が眠る <b> & \u200f مرحبا"
    notes = ElementTree.fromstring(made.fcpxml((384, 640))).iter("note")
    assert [note.text for note in notes][2:] == ["狐が眠る <b> & \u200f مرحبا", CAPTIONS[3]]


def test_fcpxml_is_whole_seconds_of_fractions_and_tells_size_and_rate() -> None:
    root = ElementTree.fromstring(timeline(16).fcpxml((480, 832)))
    (video_format,) = root.iter("format")
    assert (video_format.get("height"), video_format.get("width")) == ("480", "832")
    assert Fraction((video_format.get("frameDuration") or "").rstrip("s")) == Fraction(1, 24)
    ends = [
        Fraction(clip.attrib["offset"].rstrip("s")) + Fraction(clip.attrib["duration"].rstrip("s"))
        for clip in root.iter("clip")
    ]
    # 21, 54, 63 and 108 film frames of 1/16 s, each at most half a frame of 1/24 s away.
    assert ends == [Fraction(32, 24), Fraction(81, 24), Fraction(94, 24), Fraction(162, 24)]


@pytest.mark.parametrize("fps", [8, 12, 15, 16, 18, 24, 25, 30, 60])
def test_clips_show_every_film_frame_in_order_and_cuts_never_drift(fps: int) -> None:
    made = timeline(fps, (9, 33, 21, 45, 105, 7) * 3)
    assert made.rate in EDITING_RATES
    assert otio.opentime.RationalTime.is_valid_timecode_rate(made.rate)
    film_cuts = np.cumsum([0, *made.shot_num_frames]).tolist()
    for cut, film_cut in zip(made.cuts, film_cuts, strict=True):
        assert abs(Fraction(cut, made.rate) - Fraction(film_cut, fps)) <= Fraction(1, 2 * made.rate)
    for index, num_frames in enumerate(made.shot_num_frames):
        order = made.film_frames(index).tolist()
        assert len(order) == made.cuts[index + 1] - made.cuts[index]
        assert sorted(set(order)) == list(range(num_frames)) and order == sorted(order)
        repeated = np.bincount(order)
        assert repeated.max() - repeated.min() <= (made.rate % fps != 0)


def test_a_clip_file_has_the_frames_that_the_timeline_counts(tmp_path: Path) -> None:
    made = timeline(12)
    levels = np.linspace(0, 250, 33).astype(np.uint8)
    frames = np.broadcast_to(levels[:, None, None, None], (33, 16, 32, 3)).copy()
    path = tmp_path / made.clip_name(1)
    made.write_clip(path, 1, frames, 2)
    shown = read_frames(path)
    assert shown.shape == (66, 32, 64, 3) and frame_rate(path) == 24
    assert np.abs(shown[:, 8, 8, 0].astype(int) - levels.repeat(2)).max() <= 3
    with av.open(path) as container:
        assert container.duration == 2_750_000
        assert container.metadata["title"].startswith("* FROM CLIP NAME: other.mp4 002 X V C")


def test_an_edl_refuses_what_it_cannot_number() -> None:
    with pytest.raises(ValueError, match="at most 999 cuts, and the film 1000"):
        timeline(12, (9,) * 1000).edl()
