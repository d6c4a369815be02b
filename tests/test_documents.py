"""What is wrong with a document is said with its line, in a person's words."""

import pytest

from shotstream.documents import DocumentError, parse_json, shorten, whole_number


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"a": 1,\n}', "line 2: no valid JSON: a comma before the closing bracket; remove the comma"),
        ('{"a": 1\n"b": 2}', "line 2: no valid JSON: a comma is missing before '\"b\": 2}'"),
        ('{"a" 1}', "line 1: no valid JSON: a colon is missing before '1}'"),
        ("{'a': 1}", "line 1: no valid JSON: quotes that JSON does not know"),
        ('{"a": fox}', "line 1: no valid JSON: 'fox}' cannot stand there; are quotes missing?"),
        ('{"a": "b', "line 1: no valid JSON: a quote that is not closed"),
        ('{"a": [', "line 1: no valid JSON: it ends too early"),
        ('{"a": "b\tc"}', "line 1: no valid JSON: a line break or a tab inside a text"),
        (r'{"a": "C:\path"}', r"line 1: no valid JSON: a single \\ in a text"),
        ('// b\n{"a": 1}', "line 1: no valid JSON: it has no comments; remove it"),
        ('{"a": 1}\n{"a": 2}', "line 2: no valid JSON: there is more after its end"),
        ('{"a": 1, "a": 2}', "'a' is given twice"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_wrong_with_json_is_said(text: str, problem: str) -> None:
    with pytest.raises(DocumentError, match=problem.replace("?", r"\?").replace("(", r"\(")) as caught:
        parse_json(text)
    assert "\n" not in str(caught.value) and "Expecting" not in str(caught.value)


def test_a_whole_number_is_what_spells_one_and_nothing_else() -> None:
    for value in (3, 3.0, "3", " +3 ", "003", "3.0"):
        assert whole_number(value) == 3, value
    for value in (
        True,
        None,
        3.5,
        "3.5",
        "1e3",
        "0x3",
        "three",
        "",
        [3],
        2.0**60,
        float("nan"),
        float("inf"),
    ):
        assert whole_number(value) is None, value
    assert parse_json("9" * 40) == int("9" * 40) and parse_json("9" * 41) == "9" * 41


def test_a_shortened_text_says_that_it_is_one() -> None:
    assert shorten("abcdef", 6) == "abcdef"
    assert shorten("abcdefg", 6) == "abcde…"
