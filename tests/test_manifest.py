import json
from pathlib import Path

import pytest

from shotstream.manifest import FORMAT, Clip, ManifestError, read_manifest, write_manifest, write_published
from shotstream.story import Shot, Story

STORY = Story(
    global_caption='A "red" fox, at dusk.', shots=(Shot(caption="It sits."), Shot(caption="Él corre."))
)


def clips(tmp_path: Path) -> list[Clip]:
    return [
        Clip(video=tmp_path / "a.mp4", story=STORY, shot_ranges=((0, 33), (33, 66))),
        Clip(video=tmp_path / "b.mp4", story=STORY, shot_ranges=((5, 21),)),
    ]


@pytest.mark.parametrize("write", [write_manifest, write_published])
def test_both_forms_return_what_was_written(tmp_path: Path, write: object) -> None:
    path = tmp_path / ("clips.csv" if write is write_published else "clips.jsonl")
    write(path, clips(tmp_path))  # type: ignore[operator]
    found = list(read_manifest(path))
    assert [(clip.video, clip.shot_ranges) for clip in found] == [
        (clip.video, clip.shot_ranges) for clip in clips(tmp_path)
    ]
    assert [clip.story.shots for clip in found] == [STORY.shots] * 2
    assert [clip.story.global_caption for clip in found] == [STORY.global_caption] * 2


def test_a_moved_directory_still_reads(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    write_published(before / "clips.csv", clips(before))
    before.rename(after)
    assert [clip.video for clip in read_manifest(after / "clips.csv")] == [after / "a.mp4", after / "b.mp4"]


@pytest.mark.parametrize(
    ("ranges", "reason"),
    [
        ("[[0, 9], [8, 20]]", "overlaps"),
        ("[[9, 9]]", "empty"),
        ("[[0, 9], [9, 20], [20, 30]]", "3 frame ranges for 2"),
        ("[]", "0 frame ranges"),
        ("[[0, 9.5]]", "write \\[\\[first"),
        ("[[0, 9, 12]]", "write \\[\\[first"),
        ("7", "write \\[\\[first"),
        ("[[-9, 9]]", "begins before the first frame, which is 0"),
        ("[[0, true]]", "write \\[\\[first"),
        ("[[0, 9]", "no list of frame ranges such as \\[\\[0, 33\\]"),
        ("[[0 9] [9 20]]", "no list of frame ranges"),
        ("__import__('os')", "frame_number is .__import__.*no list of frame ranges"),
        ("[" * 5000, "no list of frame ranges"),
        ("[[0, " + "9" * 5000 + "]]", "write \\[\\[first"),
    ],
)
def test_wrong_frame_ranges_are_refused_with_file_and_line(tmp_path: Path, ranges: str, reason: str) -> None:
    write_published(tmp_path / "clips.csv", clips(tmp_path))
    path = tmp_path / "wrong.csv"
    path.write_text(f'json_path,video_path,frame_number\na.json,a.mp4,"{ranges}"\n')
    with pytest.raises(ManifestError, match=f"wrong.csv: line 2: .*{reason}"):
        list(read_manifest(path))


def test_missing_columns_keys_and_captions_are_named(tmp_path: Path) -> None:
    path = tmp_path / "clips.csv"
    path.write_text("json_path,frame_number\n")
    with pytest.raises(ManifestError, match="'video_path' is missing"):
        list(read_manifest(path))
    path.write_text('json_path,video_path,frame_number\nabsent.json,a.mp4,"[[0, 9]]"\n')
    with pytest.raises(ManifestError, match=r"absent.json: cannot be read"):
        list(read_manifest(path))
    lines = tmp_path / "clips.jsonl"
    lines.write_text('{"format": "shotstream-clip/1", "story": {}}\n')
    with pytest.raises(ManifestError, match="line 1: 'video' is missing"):
        list(read_manifest(lines))
    lines.write_text("[]\n")
    with pytest.raises(ManifestError, match="line 1: no entry of the format"):
        list(read_manifest(lines))


ROW = 'a.json,a.mp4,"[[0, 48]]",1'
HEADER = "json_path,video_path,frame_number,shot_num_from_caption"
ENTRY = {"format": FORMAT, "video": "a.mp4", "shot_ranges": [[0, 48]], "story": STORY.to_document()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a clip and its captions; the working folder lies elsewhere."""
    (tmp_path / "a.json").write_text(json.dumps(STORY.to_published_document()))
    (tmp_path / "a.mp4").touch()
    return tmp_path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("m.csv", f"{HEADER}\n{ROW}\n\n , ,\n"),
        ("m.CSV", f"{HEADER}\r\n{ROW}\r\n\r\n"),
        ("m.csv", f'{HEADER.replace(",", ", ")}\na.json, a.mp4, "[[0.0, 48.0]]", 1\n'),
        ("m.csv", f"{HEADER.replace(',', ';')}\na.json;a.mp4;[[0, 48]];1\n"),
        ("m.csv", f"sep=;\n{HEADER.replace(',', ';').upper()}\na.json;a.mp4;((0, 48),);1\n"),
        ("m.tsv", f"{HEADER}\n{ROW}\n".replace(",", "\t").replace("[[0\t", "[[0,")),
        ("m.csv", f'{HEADER}\n.\\a.json,.\\a.mp4,"[[0, 48]]",1\n'),
        ("m.csv", 'frame_number,video_path,json_path\n"[[0,48]]",a.mp4,a.json,,\n'),
        ("m.txt", f"{HEADER}\n{ROW}\n"),
        ("m.jsonl", f"{json.dumps(ENTRY)}\n\n"),
        ("m.jsonl", f"\r\n{json.dumps({**ENTRY, 'video': '.' + chr(92) + 'a.mp4'})}\r\n"),
        ("m.json", json.dumps({**ENTRY, "shot_ranges": [[0.0, 48.0]]})),
    ],
)
def test_manifests_are_read_as_other_programs_write_them(
    folder: Path, name: str, text: str, encoding: str
) -> None:
    (folder / name).write_bytes(text.encode(encoding))
    told: list[str] = []
    (clip,) = read_manifest(folder / name, told.append)
    assert (clip.video, clip.shot_ranges, clip.story.shots) == (folder / "a.mp4", ((0, 48),), STORY.shots)
    assert told == []


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("m.csv", b"", "line 1: the column 'json_path' is missing; there are: none"),
        ("m.csv", b"shot_num_from_caption,json_path,frame_number\n", "'video_path' is missing; there are"),
        ("m.csv", f"{HEADER}\na.json,a.mp4\n".encode(), "line 2: 'frame_number' is missing: 2 cells for 4"),
        ("m.csv", f"{HEADER}\na.json,a.mp4,[[0, 48]],1\n".encode(), "5 cells for 4 .* double quotes"),
        ("m.csv", f"{HEADER}\n{ROW}\n".encode() + b"b\x92s.json,b", "line 3: not UTF-8 .byte 0x92; .*"),
        ("m.csv", f"{HEADER}\n{ROW}\n".encode() + b"\0\0\0", r"line 3: holds the character U\+0000"),
        ("m.csv", f'{HEADER}\na.json,"a.mp4,{"x" * 200_000}\n'.encode(), "a cell is too long"),
        ("m.csv", f'{HEADER}\na.json,,"[[0, 48]]",1\n'.encode(), "line 2: video_path is empty"),
        ("m.csv", f'{HEADER}\n,a.mp4,"[[0, 48]]",1\n'.encode(), "line 2: json_path is empty"),
        ("m.csv", f"json_path,{HEADER}\n".encode(), "line 1: the column 'json_path' is given twice"),
        ("m.csv", f'{HEADER}\na.json,http://e.org/,"[[0, 4]]",1\n'.encode(), "video_path is the address"),
        ("m.csv", f'{HEADER}\na.json,{"x" * 300},"[[0, 4]]",1\n'.encode(), "line 2: .*: File name too long"),
        ("m.jsonl", b"a fox walks\n", "line 1: no valid JSON: .*a manifest is a CSV, or JSON Lines"),
        ("m.jsonl", b'{"global_caption": "a",\n "shot1": "b"}', "line 1: no valid JSON: it ends too early"),
        ("m.jsonl", b'{"video_path": "a.mp4", "caption": "b"}', "line 1: no entry of the format"),
        ("m.jsonl", {"video": None}, "line 1: video is empty; write the name of a file"),
        ("m.jsonl", {"video": 5}, "line 1: video is 5; write the name of a file"),
        ("m.jsonl", {"video": ["a.mp4"]}, "line 1: video is a list; write the name of a file"),
        ("m.jsonl", {"video": "concat:a.mp4|b.mp4"}, "line 1: video is the address 'concat:a.mp4.b"),
        ("m.jsonl", {"video": "a\0.mp4"}, r"line 1: video holds the character U\+0000"),
        ("m.jsonl", {"shot_ranges": None}, "line 1: shot_ranges holds null; write"),
        ("m.jsonl", {"shot_ranges": {"a": 1}}, 'line 1: shot_ranges holds {"a": 1}; write'),
        ("m.jsonl", {"shot_ranges": "[[0, 9]]"}, r'line 1: shot_ranges holds "\[\[0, 9\]\]"; write'),
        ("m.jsonl", {"shot_ranges": [["0", 9]]}, "line 1: shot_ranges holds .*; write"),
        ("m.jsonl", {"story": None}, "line 1: not a story; write global_caption"),
        ("m.jsonl", {"story": {"global_caption": "a", "shots": [None]}}, "line 1: shot 1: caption is empty"),
    ],
)  # fmt: skip
def test_bad_manifests_are_refused_in_one_line_with_file_and_line(
    folder: Path, name: str, text: bytes | dict[str, object], reason: str
) -> None:
    data = text if isinstance(text, bytes) else json.dumps({**ENTRY, **text}).encode()
    (folder / name).write_bytes(data)
    with pytest.raises(ManifestError, match=reason) as caught:
        list(read_manifest(folder / name))
    assert str(caught.value).startswith(f"{folder / name}: line ") and "\n" not in str(caught.value)


def test_files_are_looked_for_beside_the_manifest_and_then_in_the_working_folder(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The published sample names its files from the folder in which its scripts are run."""
    elsewhere = tmp_path_factory.mktemp("working")
    (elsewhere / "demo").mkdir()
    for name in ("b.json", "a.json"):
        (elsewhere / "demo" / name).write_text((folder / "a.json").read_text())
    for name in ("a.mp4", "b.mp4", "demo/b.mp4"):
        (elsewhere / name).touch()
    (folder / "m.csv").write_text(
        "\n".join((HEADER, ROW.replace("a.", "demo/b."), ROW, ROW.replace("a.mp4", "c.mp4")))
    )
    monkeypatch.chdir(elsewhere)
    assert [clip.video for clip in read_manifest(folder / "m.csv")] == [
        Path("demo/b.mp4"),
        folder / "a.mp4",
        folder / "c.mp4",
    ]


def test_what_is_not_read_is_told_once(folder: Path) -> None:
    captions = {"video_path": "demo/a.mp4", "frames_per_shot": [49, 49], **STORY.to_published_document()}
    (folder / "a.json").write_text(json.dumps(captions))
    (folder / "m.csv").write_text("\n".join([HEADER + ",score", *[ROW + ",0.5"] * 50]))
    told: list[str] = []
    assert len(list(read_manifest(folder / "m.csv", told.append))) == 50
    assert told == [
        f"{folder / 'm.csv'}: columns that are not read: 'score'; keys that are not read: 'video_path'"
    ]
    lines = [json.dumps({**ENTRY, f"extra{number}": 1}) for number in range(5)]
    (folder / "m.jsonl").write_text("\n".join(lines))
    told.clear()
    assert len(list(read_manifest(folder / "m.jsonl", told.append))) == 5
    assert len(told) == 1 and told[0].endswith("'extra2'; and 2 more such lines")
