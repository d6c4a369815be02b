"""Asks the questions of `shotstream bench all` of one model, loaded once; started by `supervise` alone.

Each answer is written before it is told of. An error is an answer too. What leaves a GPU unusable ends the
process, and `supervise` starts another for the questions that are left.
"""

import json
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from shotstream.bench.answers import AnswerFile, error_text
from shotstream.bench.questions import QUESTIONS, Asked, Question

_UNUSABLE = 3


def main(message: str) -> int:
    """Exit code."""
    given = json.loads(message)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    events = os.fdopen(given["events"], "w", buffering=1)

    def tell(event: str, **values: Any) -> None:
        events.write(json.dumps({"event": event, **values}) + "\n")

    asked = Asked(**given["asked"])
    by_key = {question.key: question for question in QUESTIONS}
    questions = [by_key[name, variant] for name, variant in given["questions"]]
    file, until_s, started_s = AnswerFile(Path(given["answers"])), given["until_s"], time.time()
    # The first question is begun with the loading: before it, so to say.
    is_first = not file.read()
    try:
        from shotstream.bench.variants import Models

        models = Models(asked, started_s)
    except Exception as error:
        traceback.print_exc()
        tell("failed", error=f"loading: {error_text(error)}")
        return 1
    tell("loaded", device=models.device_name, threads=models.num_threads)
    for question in questions:
        if not is_first and time.time() > until_s:
            break
        if not models.has(question):
            tell("left out")
            continue
        tell("asking")
        answer = _answer(models, question)
        file.add(answer)
        tell("answered", answer=answer)
        is_first = False
        if "error" in answer and not models.recover():
            return _UNUSABLE
    tell("done")
    return 0


def _answer(models: Any, question: Question) -> dict[str, Any]:
    from shotstream.bench.asking import ask
    from shotstream.bench.budget import Budget

    start_s, budget = time.time(), Budget(float(question.budget_s))
    answer: dict[str, Any] = {"question": question.name}
    if question.variant:
        answer["variant"] = question.variant
    answer["device"] = models.device_name
    if question.changes_films:
        answer["changes_films"] = True
    try:
        models.start_measuring()
        for values in ask(models, question, budget):
            answer |= values
            if budget.is_over:
                answer["stopped_after_s"] = budget.spent_s
                break
    except Exception as error:
        traceback.print_exc()
        answer["error"] = error_text(error)
    return {**answer, **models.peaks(), "at_s": start_s - models.started_s, "took_s": time.time() - start_s}


def _end_with_parent() -> None:
    """Whatever ended it, its end of this pipe is closed."""
    while os.read(0, 1024):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
