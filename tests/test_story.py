import json
import os
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from shotstream.story import (
    MAX_CAPTION_CHARS,
    MAX_CHUNKS_PER_SHOT,
    MAX_SEED,
    MAX_SHOTS,
    MAX_TITLE_CHARS,
    Shot,
    Story,
    StoryError,
    bundled_stories,
    compose_caption,
    find_story,
    fit_caption,
    read_story,
    story_from_bytes,
    story_from_document,
)

VALID = {
    "global_caption": "A red fox.",
    "shots": ["It sits.", {"caption": "It walks.", "num_chunks": 2, "seed": 5}],
}
words = st.text(alphabet="ab ", min_size=0, max_size=60)


def write(tmp_path: Path, content: str | bytes, name: str = "story.yaml") -> Path:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_yaml_and_json_of_one_story_are_equal(tmp_path: Path) -> None:
    yaml_text = """
title: Fox
seed: 7
global_caption: A red fox.
shots:
  - It sits.
  - {caption: It walks., num_chunks: 2, seed: 5}
"""
    from_yaml = read_story(write(tmp_path, yaml_text))
    from_json = read_story(write(tmp_path, json.dumps({"title": "Fox", "seed": 7, **VALID}), "story.json"))
    assert from_yaml == from_json
    assert from_yaml.shots[1] == Shot(caption="It walks.", num_chunks=2, seed=5)


def test_a_story_survives_its_document() -> None:
    story = story_from_document(VALID)
    assert story_from_document(story.to_document()) == story


def test_the_published_json_parses_and_is_written_back(tmp_path: Path) -> None:
    document = {"global_caption": "Two women. ", "shot2": " second", "shot1": "first"}
    story = read_story(write(tmp_path, json.dumps(document), "a film.json"))
    assert [shot.caption for shot in story.shots] == ["first", " second"]
    assert story.title == "a film"
    assert story.to_published_document() == document


def test_published_examples_in_the_repository_parse() -> None:
    examples = sorted((Path(__file__).parent / "assets" / "stories").glob("*.json"))
    assert len(examples) == 6
    assert [len(read_story(path).shots) for path in examples] == [6, 5, 6, 5, 5, 5]


def test_published_caption_has_a_zero_based_label_and_nothing_inserted() -> None:
    assert compose_caption("A fox. ", " It sits.", 1, style="published") == "A fox. shot1: It sits."


def test_plain_caption_collapses_white_space_and_takes_an_empty_global_caption() -> None:
    assert compose_caption("A fox.\n", " It\n sits. ", 3, style="plain") == "A fox. It sits."
    assert compose_caption("", "It sits.", 0, style="plain") == "It sits."


@given(words, words, st.integers(0, 20))
def test_fitting_cuts_only_the_end_of_the_global_caption(
    global_caption: str, caption: str, limit: int
) -> None:
    def count(text: str) -> int:
        return len(text.split())

    fitted = fit_caption(global_caption, caption, limit, count, shot_index=0, style="plain")
    kept = fitted.text.split()[: len(global_caption.split()) - len(fitted.cut.split())]
    assert kept + fitted.cut.split() == global_caption.split()
    assert fitted.text.split()[len(kept) :] == caption.split()
    assert count(fitted.text) <= max(limit, count(caption))
    assert not fitted.cut or count(fitted.text) + 1 > limit


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ([], "a list of 0 entries, not a story; .* shot1 to shotN"),
        (["a", "b"], "a list of 2 entries, not a story; .* shot1 to shot2"),
        ("text", "not a story"),
        ({}, "'shots' is missing"),
        ({"prompts": ["a", "b"]}, "'shots' is missing; .* shot1 to shotN"),
        ({"shots": ["x"]}, "'global_caption' is missing"),
        ({**VALID, "shots": []}, "0 shots"),
        ({**VALID, "shots": {}}, "'shots' is a group of keys, no list; write captions in a list"),
        ({**VALID, "shots": "x"}, "'shots' is text, no list; .* after '- '"),
        ({**VALID, "shots": ["x"] * (MAX_SHOTS + 1)}, f"at most {MAX_SHOTS}"),
        ({**VALID, "shots": ["fine", "  "]}, "shot 2: caption is empty"),
        ({**VALID, "shots": [{"caption": None}]}, "shot 1: caption is empty"),
        ({**VALID, "shots": [{}]}, "shot 1: 'caption' is missing"),
        ({**VALID, "shots": [5]}, "shot 1: caption is not text but a number"),
        ({**VALID, "shots": [["x"]]}, "shot 1: caption is not text but a list; write one text"),
        ({**VALID, "shots": [{"a": "x"}]}, "shot 1: 'caption' is missing .there are: 'a'.; .* needs quotes"),
        ([VALID, VALID], r"a list of stories \(2\); give one of them, without the list"),
        ({**VALID, "title": 1984}, "title is not text but a number; put it in quotes"),
        ({**VALID, "shots": ["x" * (MAX_CAPTION_CHARS + 1)]}, "at most"),
        ({**VALID, "shots": ["a\x00b"]}, "U\\+0000"),
        ({**VALID, "shots": ["a\ud800b"]}, "U\\+D800"),
        ({**VALID, "shots": [{"caption": "x", "num_chunks": 0}]}, "num_chunks is 0; allowed are 1"),
        ({**VALID, "shots": [{"caption": "x", "num_chunks": True}]}, "whole number"),
        ({**VALID, "seed": -1}, "seed is -1"),
        ({**VALID, "seed": "seven"}, "seed is seven; write a whole number"),
        ({**VALID, "seed": 7.5}, "seed is 7.5; write a whole number"),
        ({**VALID, "seed": 1e300}, "write a whole number"),
        ({**VALID, "seed": float("nan")}, "write a whole number"),
        ({**VALID, "seed": [[7]]}, "seed is a list; write a whole number"),
        ({**VALID, "seed": "9" * 5000}, "seed is 9+…; write a whole number"),
        ({**VALID, "global_caption": ""}, "global_caption is empty"),
        ({**VALID, "shot1": "x"}, "both a list under 'shots' and numbered shots"),
        ({**VALID, "Seed": 1, "seed": 2}, "'seed' is given twice"),
        (
            {"global_caption": "x", "shot1": "a", "shot3": "b"},
            "'shot2' is missing; .* shot1 to shot2 without",
        ),
        ({"global_caption": "x", "shot0": "a", "shot1": "b"}, "the first shot is shot1; .* shot1 to shot2"),
        ({"global_caption": "x", "shot1": "a", "Shot01": "b"}, "'Shot01' is given twice"),
        ({"global_caption": "x", "shot1": "a", "frames_per_shot": [9, 9]}, "2 lengths for 1 shots"),
        ({"global_caption": "x", "shot1": "a", "frames_per_shot": [0]}, "frames_per_shot holds 0; allowed"),
        ({"global_caption": "x", "shot1": "a", "frames_per_shot": ["x"]}, "frames_per_shot holds x; allowed"),
        ({"global_caption": "x", "shot1": ""}, "shot 1: caption is empty"),
    ],
)
def test_bad_documents_are_refused_in_one_line(document: object, reason: str) -> None:
    with pytest.raises(StoryError, match=reason) as caught:
        story_from_document(document)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("s.yaml", b"title: a\nglobal_caption: \xff\xfe", "line 2: not UTF-8"),
        ("s.yaml", "global_caption: a\nshots: [", "line 2: a bracket that is not closed"),
        ("s.yaml", "global_caption: a\nglobal_caption: b\nshots: [x]", "line 2: 'global_caption' is given"),
        ("s.yaml", "shots: !!python/object/apply:os.system ['true']", "line 1: no valid YAML: !!python"),
        ("s.yaml", "[" * 100_000, "nested too deeply"),
        ("s.json", "[" * 100_000, "nested too deeply"),
        ("s.json", "{", "no valid JSON"),
        ("s.json", '{"global_caption": "a", "shots": ["b",]}', "line 1: no valid JSON: a comma before"),
        ("s.json", '{"global_caption": "a", "shot1": "b", "shot1": "c"}', "'shot1' is given twice"),
        (
            "s",
            "{\u201cglobal_caption\u201d: \u201ca\u201d}",
            "line 1: no valid JSON: quotes that JSON does not know",
        ),
        ("s.yaml", "", "not a story"),
        (
            "s.yaml",
            "global_caption\uff1aa\nshots\uff1a\n  - b\n",
            "line 1: a wide colon after global_caption",
        ),
        ("s.txt", "A fox walks.\n\nAt 12: it sleeps.\n", "2 lines of text; .* shot1 to shot2"),
        ("s.jsonl", '{"prompts": ["a"]}\n{"prompts": ["b"]}\n', "JSON Lines; .* shot1 to shotN"),
        ("s.json", '{"shot1": "a"}\n\n{"shot1": "b"}\n', "JSON Lines; .* shot1 to shotN"),
        ("s.csv", "json_path,frame_number\nd/01.json,1\n", "a table, not a story.*for example d/01.json$"),
        ("s.md", "A fox walks.", r"1 line of text; .* and shot1 \(its caption\)$"),
        ("s.yaml", "global_caption: a\nshots:\n  1. b\n  2. c\n", "'shots' begins with '1.'; .* .a dash and"),
        ("s.yaml", "global_caption: a\nshots:\n  -\u00a0b\n", "'shots' begins with '-'; .* ordinary space"),
        ("s.yaml", "global_caption: a\nshots:\n- b\nc\n- d\n", "line 4: .*; indent continued text"),
        ("s.mp4", b"\0\0\0\x18ftypisom", "line 1: holds the character U\\+0000: no text file"),
        ("s.yaml", "global_caption: a\nshots:\n\t- b\n", "line 3: begins with a tab; indent with spaces"),
        ("s.yaml", "a: &a [x, x]\nb: &b [*a, *a]\nseed: *b\nglobal_caption: c\nshots: [d]", "seed is a list"),
        ("s.yaml", "shots: &s [*s]\n", "line 1: an alias"),
        ("s.yaml", "x" * ((1 << 20) + 1), "larger than"),
    ],
)
def test_bad_files_are_refused_in_one_line_naming_the_file(
    tmp_path: Path, name: str, content: str | bytes, reason: str
) -> None:
    path = write(tmp_path, content, name)
    with pytest.raises(StoryError, match=reason) as caught:
        read_story(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_the_most_that_is_allowed_is_allowed() -> None:
    most = "x" * MAX_CAPTION_CHARS
    story = story_from_document(
        {
            "global_caption": most,
            "shots": [most] * MAX_SHOTS,
            "title": most[:MAX_TITLE_CHARS],
            "seed": MAX_SEED,
        }
    )
    assert (len(story.shots), story.seed) == (MAX_SHOTS, MAX_SEED)
    lengths = {"caption": most, "num_chunks": MAX_CHUNKS_PER_SHOT, "seed": 0}
    assert story_from_document({"global_caption": "x", "shots": [lengths]}).shots[0].num_chunks == 1000


@pytest.mark.parametrize("form", [read_story, None])
def test_keys_of_others_are_left_out_with_one_warning(tmp_path: Path, form: object) -> None:
    """The published repository's own sample was refused because of its `video_path`."""
    text = """{
    "video_path": "demo/data/sample/0001.mp4", "sample_id": "0", "negative_prompt": NaN, "titel": "x",
    "global_caption": "Two women. ", "shot1": "first", "shot2": {"caption": "second", "fps": 16}
    }"""
    story = read_story(write(tmp_path, text, "a.json")) if form else story_from_bytes(text.encode())
    assert [shot.caption for shot in story.shots] == ["first", "second"]
    assert story.warnings == (
        "keys that are not read: 'video_path', 'sample_id', 'negative_prompt', 'titel' (title?), "
        "'fps' (shot 2)",
    )
    assert story_from_document(story.to_document()) == story and "warnings" not in story.to_document()


def test_a_second_number_in_a_key_is_no_other_shot() -> None:
    """`shot1_1` was read as shot 11."""
    captions = {f"shot{number}": str(number) for number in range(1, 11)}
    story = story_from_document({"global_caption": "x", **captions, "shot1_1": "another"})
    assert [shot.caption for shot in story.shots] == [*captions.values()]
    assert story.warnings == ("keys that are not read: 'shot1_1'",)


@pytest.mark.parametrize(
    "keys", [("Shot1", "SHOT2"), ("shot01", "shot02"), ("shot_1", "Shot 2"), ("shot\uff11", "\u200bshot2")]
)
def test_numbered_shots_are_known_however_they_are_written(keys: tuple[str, str]) -> None:
    story = story_from_document(
        {"Global_Caption": "x", keys[1]: "b", keys[0]: "a", "Title": "T", "seed": "7"}
    )
    assert [shot.caption for shot in story.shots] == ["a", "b"]
    assert (story.title, story.seed, story.warnings) == ("T", 7, ())


def test_frames_per_shot_become_the_nearest_lengths_and_what_changes_is_told_once() -> None:
    captions = {f"shot{n}": "x" for n in range(1, 5)}
    story = story_from_document(
        {"global_caption": "x", "frames_per_shot": [81, 49, 49.0, "1"], **captions, "shot4": {"caption": "y"}}
    )
    assert [shot.num_chunks for shot in story.shots] == [7, 4, 4, 1]
    assert story.warnings == ("frames_per_shot that do not fill whole chunks: 49 become 45, 1 become 9",)
    one = {"global_caption": "x", "frames_per_shot": 33, "shots": ["a", {"caption": "b", "num_chunks": 2}]}
    assert [shot.num_chunks for shot in story_from_document(one).shots] == [3, 2]


def test_yaml_is_read_as_it_is_written(tmp_path: Path) -> None:
    """A date, a number and `!!bool "x"` as a title were errors of Python's, in the studio a 500."""
    for title in ("1984", "2024-02-30", "yes", "12:30", "1e3", '!!bool "x"', "0" * 5000, "null"):
        text = (
            f"title: {title}\nseed: 007\nglobal_caption: 3.10\nshots:\n  - no\n  - caption: ~\n    seed: ~\n"
        )
        if len(title) > MAX_TITLE_CHARS:
            with pytest.raises(StoryError, match="title has 5000 characters"):
                read_story(write(tmp_path, text))
            continue
        story = read_story(write(tmp_path, text))
        assert (story.title, story.seed) == ("x" if "!" in title else title, 7)
        assert [story.global_caption, *(shot.caption for shot in story.shots)] == ["3.10", "no", "~"]
        assert story.shots[1].seed is None


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", ["s.yaml", "s.json"])
def test_every_encoding_of_text_editors_is_read(
    tmp_path: Path, encoding: str, line_end: str, name: str
) -> None:
    text = {
        "s.yaml": "global_caption: Él\n\nshots:\n  - 狐: a\n",
        "s.json": '{"global_caption": "Él",\n\t"shot1": "狐: a"}',
    }
    data = text[name].replace("\n", line_end).encode(encoding)
    for story in (read_story(write(tmp_path, data, name)), story_from_bytes(data)):
        assert (story.global_caption, story.shots[0].caption) == ("Él", "狐: a")


def test_a_title_from_a_file_name_is_one_that_a_title_may_be(tmp_path: Path) -> None:
    for name, title in ((" .json", "Untitled"), ("caf\udce9.json", "caf?"), ("a\x1bb.json", "a?b")):
        assert read_story(write(tmp_path, json.dumps(VALID), name)).title == title


captions = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=60).filter(str.strip)


@given(
    captions, captions, st.lists(st.tuples(captions, st.none() | st.integers(1, 9)), min_size=1, max_size=3)
)
def test_an_exported_story_is_read_back(
    title: str, caption: str, shots: list[tuple[str, int | None]]
) -> None:
    story = Story(
        title=title,
        global_caption=caption,
        shots=tuple(Shot(caption=text, num_chunks=length) for text, length in shots),
    )
    text = yaml.safe_dump(story.to_document(), allow_unicode=True, sort_keys=False)
    assert story_from_bytes(text.encode()) == story
    assert story_from_bytes(json.dumps(story.to_document()).encode()) == story


@given(st.binary(max_size=80) | st.text("{}[]:-#&*!|>'\"%@,\n \tab?~<", max_size=80).map(str.encode))
def test_no_document_makes_anything_but_a_story_or_one_line(data: bytes) -> None:
    for content in (data, b"global_caption: a\nshots:\n" + data, b'{"global_caption": "a", "shot1": ' + data):
        try:
            story = story_from_bytes(content)
        except StoryError as error:
            assert "\n" not in str(error)
        else:
            assert story.shots


def test_the_examples_of_the_page_are_read(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "stories.md").read_text(encoding="utf-8")
    ours, published = re.findall(r"```(?:yaml|json)\n(.*?)```", page, re.DOTALL)
    story = read_story(write(tmp_path, ours))
    assert story.title == "The fox: a story" and story.shots[0].caption.startswith(
        "Wide shot: the purple fox"
    )
    assert (story.shots[1].num_chunks, story.shots[1].seed, len(story.warnings)) == (5, 3, 1)
    story = read_story(write(tmp_path, published, "s.json"))
    assert [shot.num_chunks for shot in story.shots] == [3, 7]
    assert story.warnings == ("keys that are not read: 'sample_id'",)


def test_a_story_is_found_by_path_then_by_bundled_name(tmp_path: Path) -> None:
    path = write(tmp_path, "x")
    assert find_story(str(path)) == path
    with pytest.raises(StoryError, match="no such file"):
        find_story(str(tmp_path / "absent.yaml"))
    with pytest.raises(StoryError, match="a directory"):
        find_story(str(tmp_path))
    with pytest.raises(StoryError, match="File name too long"):
        find_story("x" * 5000)
    with pytest.raises(StoryError, match="an address; download"):
        find_story("https://example.org/story.yaml")
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(StoryError, match="no ordinary file"):
        find_story(str(tmp_path / "pipe.yaml"))


def test_bundled_stories_are_valid() -> None:
    for name, path in bundled_stories().items():
        assert isinstance(read_story(path), Story), name
        assert find_story(name) == path
