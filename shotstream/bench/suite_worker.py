"""The process that runs the benchmarks of `shotstream bench all` with one loaded model, for `supervise`.

Each result is written before it is reported. An error is a result too. An error that leaves a GPU unusable
ends the process, and `supervise` starts another for the remaining benchmarks.
"""

import json
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from shotstream.bench.results import ResultFile, error_text
from shotstream.bench.suite import SUITE, Benchmark, SuiteConfig

_UNUSABLE = 3


def main(message: str) -> int:
    """Runs the benchmarks of a message from the supervisor; returns the exit code."""
    given = json.loads(message)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    events = os.fdopen(given["events"], "w", buffering=1)

    def tell(event: str, **values: Any) -> None:
        events.write(json.dumps({"event": event, **values}) + "\n")

    suite = SuiteConfig(**given["suite"])
    by_key = {benchmark.key: benchmark for benchmark in SUITE}
    benchmarks = [by_key[name, variant] for name, variant in given["benchmarks"]]
    file, until_s, started_s = ResultFile(Path(given["results"])), given["until_s"], time.time()
    # Loading belongs to the first benchmark, which is run even if loading takes longer than the limit.
    is_first = not file.read()
    try:
        from shotstream.bench.variants import Models

        models = Models(suite, started_s)
    except Exception as error:
        traceback.print_exc()
        tell("failed", error=f"loading: {error_text(error)}")
        return 1
    tell("loaded", device=models.device_name, threads=models.num_threads)
    for benchmark in benchmarks:
        if not is_first and time.time() > until_s:
            break
        if not models.has(benchmark):
            tell("skipped")
            continue
        tell("started")
        result = _measure(models, benchmark)
        file.add(result)
        tell("finished", result=result)
        is_first = False
        if "error" in result and not models.recover():
            return _UNUSABLE
    tell("done")
    return 0


def _measure(models: Any, benchmark: Benchmark) -> dict[str, Any]:
    from shotstream.bench.budget import Budget
    from shotstream.bench.measurements import measure

    start_s, budget = time.time(), Budget(float(benchmark.budget_s))
    result: dict[str, Any] = {"benchmark": benchmark.name}
    if benchmark.variant:
        result["variant"] = benchmark.variant
    result["device"] = models.device_name
    if benchmark.changes_films:
        result["changes_films"] = True
    try:
        models.start_measuring()
        for values in measure(models, benchmark, budget):
            result |= values
            if budget.is_over:
                result["stopped_after_s"] = budget.spent_s
                break
    except Exception as error:
        traceback.print_exc()
        result["error"] = error_text(error)
    return {**result, **models.peaks(), "at_s": start_s - models.started_s, "took_s": time.time() - start_s}


def _end_with_parent() -> None:
    """Ends the process when its parent has ended, however, which closes this end of the pipe."""
    while os.read(0, 1024):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
