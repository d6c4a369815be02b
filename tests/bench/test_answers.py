import json
from pathlib import Path

import pytest

from shotstream.bench.answers import AnswerFile, as_markdown, error_text, gist, headline, table
from shotstream.bench.questions import QUESTIONS, Asked, chosen_questions

ANSWERS = [
    {"question": "generate", "variant": "plain", "device": "card", "fps": 14.25, "cut_s": 0.61},
    {"question": "generate", "variant": "2 steps", "device": "card", "fps": 40.0, "changes_films": True},
    {"question": "generate", "variant": "chosen", "device": "card", "fps": 22.5, "peak_gb": 41.0},
    {"question": "baseline", "device": "card", "ratio": 2.1, "first_frame_ratio": 9.3},
    {"question": "decode", "variant": "plain", "device": "card", "error": "ValueError: " + "x" * 500},
]


def test_a_line_is_there_as_soon_as_it_is_added_and_holds_nothing_that_json_does_not_know(
    tmp_path: Path,
) -> None:
    file = AnswerFile(tmp_path / "new" / "answers.jsonl")
    file.begin()
    assert file.read() == []
    file.add({"question": "a", "device": "cpu", "fps": 1 / 3, "spread": (1.0, float("inf")), "none": None})
    file.add({"question": "b\n\u00e9", "device": "cpu", "many": {"x": float("nan")}})
    lines = file.path.read_text(encoding="ascii").splitlines()
    assert [json.loads(line, parse_constant=pytest.fail) for line in lines] == file.read()
    assert file.read() == [
        {"question": "a", "device": "cpu", "fps": 0.33333, "spread": [1.0, None], "none": None},
        {"question": "b\n\u00e9", "device": "cpu", "many": {"x": None}},
    ]
    file.begin()
    assert file.read() == []


def test_the_headline_is_the_fastest_film_of_all_bits_and_steps() -> None:
    first, ratio, fewer = headline(ANSWERS)
    assert first.startswith("card, films as they are: fps 22.5")
    assert "2.1 x" in ratio and "9.3 x" in ratio
    assert "fewer bits or steps: fps 40" in fewer and "2 steps" in fewer
    assert headline(ANSWERS[4:]) == []


def test_the_table_has_a_line_for_each_answer_within_its_room() -> None:
    whole = table(ANSWERS, max_bytes=4000).splitlines()
    assert len(whole) == 3 + 1 + len(ANSWERS)
    assert all(len(line) <= 180 for line in whole) and "FAILED: ValueError: xxx" in whole[-1]
    assert len(table(ANSWERS * 100, max_bytes=1000).encode()) <= 1000
    document = as_markdown(ANSWERS, "the command")
    assert [json.loads(line) for line in document.splitlines() if line.startswith("{")] == ANSWERS


def test_an_answer_that_was_stopped_says_so_and_an_error_is_one_line() -> None:
    assert gist({"question": "generate", "fps": 3.0, "stopped_after_s": 61.0}) == "fps 3, stopped after 61 s"
    assert error_text(ValueError("two\n  lines")) == "ValueError: two lines"
    assert error_text(RuntimeError()) == "RuntimeError"


def test_the_first_question_is_a_film_and_no_two_are_alike() -> None:
    assert (
        QUESTIONS[0].name == "generate"
        and QUESTIONS[0].start == "plain"
        and not QUESTIONS[0].inference_options
    )
    assert len({question.key for question in QUESTIONS}) == len(QUESTIONS)
    assert not any("," in question.variant for question in QUESTIONS), "commas stand between names"


def test_questions_can_be_picked_by_name_and_by_variant() -> None:
    assert chosen_questions() == list(QUESTIONS)
    picked = chosen_questions("decode: whole chunk, encode")
    assert [question.key for question in picked] == [("encode", ""), ("decode", "whole chunk")]
    assert chosen_questions(begin="shots")[0].name == "shots"
    for only, begin in (("what", None), (None, "decode: what")):
        with pytest.raises(ValueError, match="no question"):
            chosen_questions(only, begin)
    with pytest.raises(ValueError, match="at least 1"):
        Asked(num_shots=0)
