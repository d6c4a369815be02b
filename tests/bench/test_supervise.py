"""Whatever becomes of the process that asks, every question but the one under way keeps its answer."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from shotstream.bench.questions import QUESTIONS, Asked
from shotstream.bench.supervise import MAX_BYTES, supervise

ROOT = Path(__file__).parents[2]

# Stands in for the process that asks: each question's number says what becomes of it.
ASKER = """
import json, os, sys, threading, time
from pathlib import Path
from shotstream.bench.answers import AnswerFile
from shotstream.bench.everything import _end_with_parent

given, deeds = json.loads(sys.argv[2]), json.loads(sys.argv[1])
threading.Thread(target=_end_with_parent, daemon=True).start()
Path(given["answers"]).with_name("pids").open("a").write(f"{os.getpid()}\\n")
events = os.fdopen(given["events"], "w", buffering=1)
tell = lambda event, **values: events.write(json.dumps({"event": event, **values}) + "\\n")
print("a library's words", flush=True)
if deeds.get("load") == "fails":
    sys.exit("no such card")
tell("loaded", device="card", threads=1)
for name, variant in given["questions"]:
    deed = deeds.get(f"{name}: {variant}", deeds.get(name, "answers"))
    if deed == "is left out":
        tell("left out")
        continue
    tell("asking")
    if deed == "ends":
        os._exit(7)
    if deed == "hangs":
        time.sleep(60)
    answer = {"question": name, "variant": variant, "device": "card", "fps": 2.0}
    if deed == "spoils the card":
        answer["error"] = "RuntimeError: CUDA"
    AnswerFile(Path(given["answers"])).add(answer)
    if deed == "ends untold":
        os._exit(7)
    tell("answered", answer=answer)
    if deed == "spoils the card":
        sys.exit(3)
tell("done")
"""


def run(directory: Path, limit_s: float = 60.0, **deeds: str) -> tuple[int, list[dict[str, Any]], str]:
    """Exit code, answers, and what was shown."""
    shown: list[str] = []
    asker = (sys.executable, "-c", ASKER, json.dumps(deeds))
    code = supervise(
        Asked(), QUESTIONS, directory, limit_s=limit_s, command="c", say=shown.append, asker=asker
    )
    lines = (directory / "answers.jsonl").read_text().splitlines()
    return code, [json.loads(line) for line in lines], "".join(shown)


def test_every_question_has_an_answer_in_its_order_and_the_table_comes_last(tmp_path: Path) -> None:
    code, answers, shown = run(tmp_path, machine="is left out")
    assert code == 0
    asked = [question.key for question in QUESTIONS if question.name != "machine"]
    assert [(answer["question"], answer["variant"]) for answer in answers] == asked
    assert len(shown.encode()) <= MAX_BYTES < 8000
    assert shown.splitlines()[-len(asked)].startswith("generate, nothing compiled")
    assert "library" not in shown and "library" in (tmp_path / "log.txt").read_text()
    assert "| generate, nothing compiled | fps 2 |" in (tmp_path / "answers.md").read_text()


def test_a_process_that_ends_costs_its_question_and_no_other(tmp_path: Path) -> None:
    code, answers, _ = run(tmp_path, baseline="ends", encode="ends")
    assert code == 0 and len(answers) == len(QUESTIONS)
    failed = [answer for answer in answers if "error" in answer]
    assert [answer["question"] for answer in failed] == ["baseline", "encode"]
    assert all(answer["device"] == "card" and "ended with 7" in answer["error"] for answer in failed)


def test_a_question_that_leaves_the_card_unusable_keeps_its_own_error(tmp_path: Path) -> None:
    _, answers, _ = run(tmp_path, baseline="spoils the card")
    assert len(answers) == len(QUESTIONS)
    assert [answer["error"] for answer in answers if "error" in answer] == ["RuntimeError: CUDA"]
    assert len((tmp_path / "pids").read_text().splitlines()) == 2


def test_a_question_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shotstream.bench.supervise._GRACE", (0.0, 1.0))
    code, answers, _ = run(tmp_path, baseline="hangs")
    assert code == 0 and len(answers) == len(QUESTIONS)
    assert "did not come to an end" in answers[3]["error"]


def test_an_answer_that_its_process_could_not_tell_of_is_kept_and_nothing_is_blamed(tmp_path: Path) -> None:
    code, answers, _ = run(tmp_path, baseline="ends untold")
    assert code == 0 and len(answers) == len(QUESTIONS)
    assert not any("error" in answer for answer in answers)
    asked = [(answer["question"], answer["variant"]) for answer in answers]
    assert len(set(asked)) == len(asked), "nothing is asked twice"


def test_what_cannot_be_loaded_is_an_answer_too_and_is_not_tried_for_ever(tmp_path: Path) -> None:
    code, answers, shown = run(tmp_path, load="fails")
    assert code == 1
    assert [answer["question"] for answer in answers] == ["generate", "machine"]
    assert all("no such card" in answer["error"] for answer in answers)
    assert "not asked: " in shown


def test_after_the_limit_no_other_process_is_started(tmp_path: Path) -> None:
    """The process itself looks at the limit too; this one ends at its first question."""
    _, answers, _ = run(tmp_path, limit_s=0.0, generate="ends")
    assert len(answers) == 1 and answers[0]["question"] == "generate"


PROGRAM = f"""
import json, sys
from pathlib import Path
from shotstream.bench.questions import QUESTIONS, Asked
from shotstream.bench.supervise import supervise
asker = (sys.executable, "-c", {ASKER!r}, json.dumps({{"baseline": "hangs"}}))
say = lambda text: print(text, end="", flush=True)
sys.exit(supervise(Asked(), QUESTIONS, Path(sys.argv[1]), limit_s=60.0, command="c", say=say, asker=asker))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_signal_loses_one_answer_and_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, tmp_path],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    file, pids = tmp_path / "answers.jsonl", tmp_path / "pids"
    wait_for(lambda: file.is_file() and file.read_text().count("\n") == 3)
    program.send_signal(number)
    shown, _ = program.communicate(timeout=30)
    answers = [json.loads(line) for line in file.read_text().splitlines()]
    assert [answer["fps"] for answer in answers[:3]] == [2.0] * 3
    if number == signal.SIGKILL:
        assert program.returncode == -signal.SIGKILL and len(answers) == 3
    else:
        assert program.returncode == 128 + number
        assert answers[3]["question"] == "baseline" and number.name in answers[3]["error"]
        assert "FAILED: stopped by" in shown.splitlines()[-1]
    pid = int(pids.read_text())
    wait_for(lambda: not is_alive(pid))


def wait_for(holds: Any) -> None:
    for _ in range(300):
        if holds():
            return
        time.sleep(0.1)
    raise AssertionError("did not come about within 30 seconds")


def is_alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
