import json
import os
import subprocess
from pathlib import Path

import pytest

from shotstream.bench.everything import EverythingConfig, as_markdown, bench_everything
from shotstream.streaming.pipeline import StreamingPipeline
from tests.streaming.tiny import tiny_engine

ROOT = Path(__file__).parents[2]
QUESTIONS = [
    "generate", "denoise, 4 steps", "denoise, 2 steps", "denoise, 1 steps", "decode", "encode", "cut",
    "baseline", "shots",
]  # fmt: skip


def test_every_question_is_asked_and_after_the_limit_none(monkeypatch: pytest.MonkeyPatch) -> None:
    config = EverythingConfig(num_repeats=1, num_stories=1, num_shots=2, num_chunks=2, probed_shots=(1, 2))
    pipeline = StreamingPipeline(tiny_engine())
    told: list[str] = []
    answers = list(bench_everything(pipeline, config, told.append))
    assert told == [answer.name for answer in answers] == QUESTIONS
    document = as_markdown(answers, "the command")
    assert "the command" in document and "Not asked" not in document
    lines = [json.loads(line) for line in document.splitlines() if line.startswith("{")]
    assert [line["bench"] for line in lines] == [name.partition(",")[0] for name in QUESTIONS]
    assert [line["num_steps"] for line in lines[1:4]] == [4, 2, 1]

    moments = iter([0.0, 0.0, 600.0, *[601.0] * 20])
    monkeypatch.setattr("shotstream.bench.everything.time.perf_counter", lambda: next(moments))
    monkeypatch.setattr("shotstream.bench.everything.bench_generate", lambda *_: answers[0].report)
    late = list(bench_everything(pipeline, config))
    assert [answer.report is not None for answer in late] == [True] + [False] * 8
    assert as_markdown(late, "").count("Not asked") == 8


@pytest.mark.slow
def test_the_script_for_a_gpu_runs_to_its_end_on_a_cpu(tmp_path: Path) -> None:
    result = tmp_path / "all.md"
    subprocess.run(
        [ROOT / "bench" / "gpu_bench.sh", "--tiny", "-o", result],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    text = result.read_text(encoding="utf-8")
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == [*QUESTIONS, "JSON"]
    assert "Not asked" not in text
