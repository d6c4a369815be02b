"""Captions in YAML come back as they are written, or the line is refused; none is ever cut in silence."""

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from shotstream.documents import DocumentError, parse_yaml
from shotstream.prose import Keys, quote_prose
from shotstream.story import StoryError, story_from_bytes

KEYS = Keys(prose="caption|about", other="length|shots", item_prose="caption", item_other="length")
STORY = "title: t\nglobal_caption: {}\nshots:\n  - {}\n  - caption: {}\n    num_chunks: 2\n  - the end\n"


def values(text: str) -> object:
    return parse_yaml(quote_prose(text, KEYS)[0])


@pytest.mark.parametrize(
    "sentence",
    [
        "Wide shot: the fox walks",
        "Shot 1: the fox",
        "The fox says:",
        "@fox walks",
        "[Wide shot] the fox",
        "[Wide shot, the fox]",
        "{x}",
        "**Wide shot** the fox",
        "*star",
        "&fox & owl",
        "!Bang!",
        "!!! the fox",
        '"..." and more',
        "'tis night",
        "'tis the fox's den",
        "'a' 'b'",
        "“Wide shot: the fox”",
        "the fox #3: it walks",
        "#3 of the foxes",
        "yes",
        "null",
        "~",
        "1e3",
        "12:30",
        "2024-01-01",
        "<<",
        "=",
        "-",
        "- the fox",
        "? the fox",
        "> the fox",
        "| the fox",
        "%fox",
        "`fox`",
        ", fox",
        "] fox",
        ": fox",
        ":fox: walks",
        "... and then",
        "--- and then",
        r"C:\fox",
        "狐: 走る 🦊",
        "a\u2028b\x85c",
    ],
)
def test_a_sentence_is_read_as_it_is_written(sentence: str) -> None:
    story = story_from_bytes(STORY.format(sentence, sentence, sentence).encode())
    assert [story.global_caption, *(shot.caption for shot in story.shots)] == [sentence] * 3 + ["the end"]
    assert story.shots[1].num_chunks == 2 and story.warnings == ()


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40).map(str.strip))
@example("'a")
@example("a # b")
@example("a: |")
def test_no_sentence_is_cut_in_silence(sentence: str) -> None:
    """Whatever is written: it comes back whole, or as the quotes around it say, or with a warning, or not."""
    try:
        story = story_from_bytes(STORY.format("a", sentence, "b").encode())
    except StoryError as error:
        assert "\n" not in str(error)
        return
    caption = story.shots[0].caption
    assert [shot.caption for shot in story.shots[1:]] == ["b", "the end"]
    if caption != sentence and not story.warnings:
        assert sentence[0] in "'\"" or sentence.startswith(("caption", "{", "!!")), (caption, sentence)
        assert yaml.load(f"- {sentence}", yaml.BaseLoader)[0] in (caption, {"caption": caption})


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("- a\n- b: c\n", ["a", "b: c"]),
        ("- a b:\n    c: d\n    e\n\n    f\n- g", ["a b: c: d e\nf", "g"]),
        ("- |\n  a: b\n  # c\n- >-\n  - d\n\n  e\n", ["a: b\n# c\n", "- d\ne"]),
        ("- 'a: b\n  - c'\n- \"d: \\\n  e\"\n", ["a: b - c", "d: e"]),
        ("- 'tis a\n- the foxes'\n", ["'tis a", "the foxes'"]),
        ("- caption: a: b\n  length: 3 # c\n", [{"caption": "a: b", "length": "3"}]),
        ("- caption:\tb\n  length:\t3\n- {length: 4}\n", [{"caption": "b", "length": "3"}, {"length": "4"}]),
        ("-\n  caption: a: b\n-\n  c: d\n", [{"caption": "a: b"}, "c: d"]),
        ("- {caption: a, length: 3}\n- {caption: a,\n   length: 3}\n", [{"caption": "a", "length": "3"}] * 2),
        ("- {caption: a,\n   length: 3}\n- b: c\n", [{"caption": "a", "length": "3"}, "b: c"]),
        ("- lens: b\n  caption: c\n", [{"lens": "b", "caption": "c"}]),
        ("about:\n  a: b\n  c\nother: {d: e}\n", {"about": "a: b c", "other": {"d": "e"}}),
        ("about:a\n\"caption\" : 'b'\n", {"about": "a", "caption": "b"}),
        ("shots: [\n  a,\n  'b: c',\n]\nabout: d: e", {"shots": ["a", "b: c"], "about": "d: e"}),
        ("- 'a'\t\n- \"b\" \t# c\n- d\t\n- length: 3\t\n", ["a", "b", "d", {"length": "3"}]),
        ("- &a b\n- *a\n", ["b", "b"]),
        ("- &c {caption: d}\n- <<: *c\n  length: 1\n", [{"caption": "d"}, {"caption": "d", "length": "1"}]),
        ("# a: b\n---\n- c\n  # d: e\n- f\n#g\n", ["c", "f"]),
        ('{"about": "a: b",\n "shots": [\n"c"\n]}', {"about": "a: b", "shots": ["c"]}),
    ],
)  # fmt: skip
def test_what_is_written_in_forms_of_yaml_keeps_its_meaning(text: str, read: object) -> None:
    assert values(text) == read


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("- a\n- b # c\n", "line 2: YAML ends the text before '#'; put the whole text in quotes"),
        ("- b #c\n", "line 1: YAML ends the text before '#'"),
        ("about: a\n  b # c\n", "line 2: YAML ends the text before '#'"),
        ("- {length: 3, caption: a # b\n  }\n", "line 1: YAML ends the text before '#'"),
        ('- "a: b\n- "c"\n', "line 1: the double quote that begins the text is not closed"),
        ("- a\n  - b\n", "line 2: indented more deeply"),
        ("- a\n  length: 3\n", "line 2: 'length: 3' stands below a text; .* 'caption:'"),
        ("- a b: c\n  length: 3\n", "line 1: 'a b' is not a key; .* quotes"),
        ("about: a\nand b: c\n", "line 2: 'and b' is not a key; .* quotes"),
        ("- a\n\t- b\n", "line 2: begins with a tab|line 2: indented"),
        ("- a\n\u00a0\u00a0- b\n", "line 2: begins with a no-break space; indent with spaces"),
        ("\u3000- b\n", "line 1: begins with U.3000; indent with spaces"),
        ("shots:\n  * a\n", "line 2: begins with '.'; begin a caption with '- '"),
        ("shots:\n  \u2013 a b: c\n  \u2013 d\n", "line 2: begins with '.'; begin a caption with '- '"),
        ("about\uff1a a\n", "line 1: a wide colon after about; write the narrow one: about:"),
        ("- Caption \uff1aa\n", "line 1: a wide colon after Caption; write"),
        ("- {caption: a, b, length: 3}\n", "line 1: 'b' stands alone between commas; .* in quotes"),
        ("- {caption: a [b}\n", "line 1: a bracket that is not closed"),
        ("- {caption: a: b}\n", "line 1: no valid YAML: .* quotes"),
        ('- "C:\\path"\n', "line 1: no valid YAML: a single"),
        ("- !!python/name:os.system x\n", "line 1: no valid YAML: !!python/name:os.system is not read"),
    ],
)
def test_what_has_two_meanings_is_refused_with_its_line(text: str, reason: str) -> None:
    with pytest.raises(DocumentError, match=reason) as caught:
        values(text)
    assert "\n" not in str(caught.value)


def test_comments_that_are_set_off_are_left_out_and_told() -> None:
    text = "- a: b  # c\n- 'd' # e\n- caption: f\t# g\n  length: 3 # h\n"
    quoted, comments = quote_prose(text, KEYS)
    assert parse_yaml(quoted) == ["a: b", "d", {"caption": "f", "length": "3"}]
    assert comments == ("line 1 '# c'", "line 3 '# g'")
    story = story_from_bytes(b"global_caption: a  # b\nshots: [c]")
    assert story.global_caption == "a"
    assert story.warnings == ("left out as comments (quotes make them a part of the text): line 1 '# b'",)
