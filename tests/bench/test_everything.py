"""One question, asked: what it has is told, whether it came to its end or not."""

from collections.abc import Iterator
from typing import Any

import pytest

from shotstream.bench import asking
from shotstream.bench.everything import _answer
from shotstream.bench.questions import QUESTIONS, Question


class Models:
    """As much of a model as there is to tell of it."""

    device_name = "card"
    started_s = 0.0

    def start_measuring(self) -> None:
        pass

    def peaks(self) -> dict[str, float]:
        return {"peak_gb": 1.5}


def answer_to(
    question: Question, values: Iterator[dict[str, Any]], patch: pytest.MonkeyPatch
) -> dict[str, Any]:
    patch.setattr(asking, "ask", lambda *_: values)
    return _answer(Models(), question)


def test_what_was_known_before_an_error_is_told_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def values() -> Iterator[dict[str, Any]]:
        yield {"none_fps": 20.0}
        raise ModuleNotFoundError("No module\nnamed 'av'")

    answer = answer_to(Question(name="h264"), values(), monkeypatch)
    assert answer["none_fps"] == 20.0 and answer["error"] == "ModuleNotFoundError: No module named 'av'"
    assert answer["device"] == "card" and answer["peak_gb"] == 1.5 and "variant" not in answer


def test_a_question_whose_time_is_over_is_stopped_and_says_what_it_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def values() -> Iterator[dict[str, Any]]:
        yield {"fps": 20.0}
        yield pytest.fail("it was asked on")

    answer = answer_to(Question(name="generate", variant="x", budget_s=0), values(), monkeypatch)
    assert answer["fps"] == 20.0 and answer["stopped_after_s"] > 0 and "error" not in answer
    assert (answer["question"], answer["variant"]) == ("generate", "x")


def test_there_is_an_answer_for_every_question() -> None:
    assert {question.name for question in QUESTIONS} == asking._ASKED.keys()
