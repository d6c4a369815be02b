import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shotstream.story import (
    MAX_CAPTION_CHARS,
    MAX_SHOTS,
    Shot,
    Story,
    StoryError,
    bundled_stories,
    compose_caption,
    find_story,
    fit_caption,
    read_story,
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
    assert compose_caption("A fox. ", " It sits.", 1, "published") == "A fox. shot1: It sits."


def test_plain_caption_collapses_white_space_and_takes_an_empty_global_caption() -> None:
    assert compose_caption("A fox.\n", " It\n sits. ", 3) == "A fox. It sits."
    assert compose_caption("", "It sits.", 0) == "It sits."


@given(words, words, st.integers(0, 20))
def test_fitting_cuts_only_the_end_of_the_global_caption(
    global_caption: str, caption: str, limit: int
) -> None:
    def count(text: str) -> int:
        return len(text.split())

    fitted = fit_caption(global_caption, caption, limit, count)
    kept = fitted.text.split()[: len(global_caption.split()) - len(fitted.cut.split())]
    assert kept + fitted.cut.split() == global_caption.split()
    assert fitted.text.split()[len(kept) :] == caption.split()
    assert count(fitted.text) <= max(limit, count(caption))
    assert not fitted.cut or count(fitted.text) + 1 > limit


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ([], "not a story"),
        ({}, "'shots' is missing"),
        ({"shots": ["x"]}, "'global_caption' is missing"),
        ({**VALID, "shots": []}, "0 shots"),
        ({**VALID, "shots": {}}, "no list"),
        ({**VALID, "shots": ["x"] * (MAX_SHOTS + 1)}, f"at most {MAX_SHOTS}"),
        ({**VALID, "shots": ["fine", "  "]}, "shot 2: caption is empty"),
        ({**VALID, "shots": [{"caption": None}]}, "shot 1: caption is empty"),
        ({**VALID, "shots": [{}]}, "shot 1: 'caption' is missing"),
        ({**VALID, "shots": [5]}, "shot 1: caption is no text but int"),
        ({**VALID, "shots": ["x" * (MAX_CAPTION_CHARS + 1)]}, "at most"),
        ({**VALID, "shots": ["a\x00b"]}, "U\\+0000"),
        ({**VALID, "shots": ["a\ud800b"]}, "U\\+D800"),
        (
            {**VALID, "shots": [{"caption": "x", "lenght": 3}]},
            "shot 1: unknown key 'lenght'; the keys are caption",
        ),
        ({**VALID, "shots": [{"caption": "x", "num_chunks": 0}]}, "num_chunks is 0; allowed are 1"),
        ({**VALID, "shots": [{"caption": "x", "num_chunks": True}]}, "whole number"),
        ({**VALID, "seed": -1}, "seed is -1"),
        ({**VALID, "seed": "7"}, "whole number"),
        ({**VALID, "global_caption": ""}, "global_caption is empty"),
        ({**VALID, "titel": "x"}, "unknown key 'titel'"),
        ({"global_caption": "x", "shot1": "a", "shot3": "b"}, "'shot2' is missing"),
        ({"global_caption": "x", "shot1": "a", "extra": "b"}, "unknown key 'extra'"),
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
        ("s.yaml", b"global_caption: \xff\xfe", "not UTF-8"),
        ("s.yaml", "global_caption: [", "no valid YAML.*line 1"),
        ("s.yaml", "global_caption: a\nglobal_caption: b\nshots: [x]", "given twice"),
        ("s.yaml", "!!python/object/apply:os.system ['true']", "no valid YAML"),
        ("s.yaml", "[" * 100_000, "nested too deeply"),
        ("s.json", "[" * 100_000, "nested too deeply"),
        ("s.json", "{", "no valid JSON"),
        ("s.json", '{"global_caption": "a", "shot1": "b", "shot1": "c"}', "'shot1' is given twice"),
        ("s.yaml", "", "not a story"),
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


def test_a_story_is_found_by_path_then_by_bundled_name(tmp_path: Path) -> None:
    path = write(tmp_path, "x")
    assert find_story(str(path)) == path
    with pytest.raises(StoryError, match="no such file"):
        find_story(str(tmp_path / "absent.yaml"))
    with pytest.raises(StoryError, match="a directory"):
        find_story(str(tmp_path))


def test_bundled_stories_are_valid() -> None:
    for name, path in bundled_stories().items():
        assert isinstance(read_story(path), Story), name
        assert find_story(name) == path
