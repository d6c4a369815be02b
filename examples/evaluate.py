"""A model films held-out stories, and the theatre's oracle scores what it sees.

python examples/evaluate.py
"""

from pathlib import Path

import shotstream
from shotstream.evaluation.report import Report
from shotstream.evaluation.run import EvaluationConfig, evaluate


def main(sheet: Path = Path("sheet.png"), num_stories: int = 3) -> Report:
    """Scores on every axis, each with its interval; and a page of pictures, films above the truth."""
    config = EvaluationConfig(num_stories=num_stories, num_shots=2, num_chunks=1)
    return evaluate(shotstream.load("theatre"), config, sheet=sheet)


if __name__ == "__main__":
    report = main()
    print(report.table())
    memory = report.row("memory")
    print(f"memory: {memory.mean} in {memory.count} details; chance is {memory.chance}")
