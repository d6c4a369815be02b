"""Result files of `shotstream bench all`, one JSON object per line, and the table that is printed of them.

A line is written in one call, and is on disk before the next benchmark starts: if the program is killed, only
the current result is lost, and the file can be read at any time. Imports nothing that takes time.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Say = Callable[[str], None]
"""Function that prints text."""

Result = Mapping[str, Any]
"""A result: `benchmark`, `variant` if there are several, `device`, and the values or an `error`."""

_MAX_ERROR = 300


class ResultFile:
    """A file of results; several processes may append to it, one after the other."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self) -> None:
        """Empties the file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_bytes(b"")

    def add(self, result: Result) -> None:
        """Appends a result; returns once it is on disk."""
        line = json.dumps(_finite(result), ensure_ascii=True, allow_nan=False) + "\n"
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(file, line.encode("ascii"))
            os.fsync(file)
        finally:
            os.close(file)

    def read(self) -> list[dict[str, Any]]:
        """Returns all results; an empty list without a file."""
        if not self.path.is_file():
            return []
        return [json.loads(line) for line in self.path.read_text(encoding="ascii").splitlines()]


def error_text(error: BaseException) -> str:
    """Returns the kind and the message of an error in one short line."""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}"[:_MAX_ERROR] if message else type(error).__name__


def title(result: Result) -> str:
    """Returns name and variant of the benchmark."""
    variant = result.get("variant")
    return f"{result['benchmark']}, {variant}" if variant else str(result["benchmark"])


def summary(result: Result) -> str:
    """Returns a summary of the result, shorter than a line."""
    shown = [
        f"{label} {_number(result[key])}{unit}"
        for key, label, unit in _SHOWN.get(str(result["benchmark"]), ())
        if result.get(key) not in (None, [], "")
    ]
    if "stopped_after_s" in result:
        shown.append(f"stopped after {_number(result['stopped_after_s'])} s")
    if "error" in result:
        shown.insert(0, f"FAILED: {result['error']}"[:120])
    return ", ".join(shown)


def headline(results: Iterable[Result]) -> list[str]:
    """Returns the most important results as lines.

    They are the fastest film without approximations, the ratio to the published loop, and the fastest film of
    all.
    """
    results = list(results)
    films = [result for result in results if result["benchmark"] == "generate" and "fps" in result]
    lines: list[str] = []
    whole = [film for film in films if not film.get("changes_films")]
    for kind, some in (("films as they are", whole), ("with fewer bits or steps", films)):
        best = max(some, key=lambda film: film["fps"], default=None)
        if best is not None and (some is whole or best.get("changes_films")):
            lines.append(f"{best['device']}, {kind}: {summary(best)} ({best.get('variant', '')})")
    ratios = [x for x in results if x["benchmark"] == "baseline" and "ratio" in x]
    return lines[:1] + [f"beside the published loop: {summary(result)}" for result in ratios] + lines[1:]


def table(results: Sequence[Result], *, max_bytes: int) -> str:
    """Returns the headline, then a line for each result, truncated if there are too many."""
    width = max((len(title(result)) for result in results), default=0)
    lines = [*headline(results), ""]
    lines += [f"{title(result):{width}}  {summary(result)}" for result in results]
    shown: list[str] = []
    for line in (line[:180] for line in lines):
        if sum(len(x.encode()) + 1 for x in [*shown, line]) > max_bytes:
            break
        shown.append(line)
    return "\n".join(shown)


def as_markdown(results: Sequence[Result], command: str) -> str:
    """Returns a document for bench/results/: the table, then the JSON lines."""
    rows = [f"| {title(result)} | {summary(result)} |" for result in results]
    lines = [json.dumps(result) for result in results]
    return "\n".join(
        [
            *("# bench all", "", f"`{command}`", "", *headline(results), ""),
            *("| benchmark | result |", "|---|---|", *rows, "", "## JSON", "", "```"),
            *lines,
            *("```", ""),
        ]
    )


_LATENCY = (
    ("idle_s", "cut", " s (p50/p95/p99)"),
    ("busy_s", "busy", " s"),
    ("interval_ms", "chunk", " ms"),
)
_SHOWN: Mapping[str, Sequence[tuple[str, str, str]]] = {
    "generate": (
        ("fps", "fps", ""),
        ("cut_s", "cut", " s"),
        ("first_frame_s", "first", " s"),
        ("peak_gb", "peak", " GB"),
        ("h264", "H.264", ""),
        ("warm_up_s", "warm-up", " s"),
    ),
    "machine": (("torch", "torch", ""), ("num_threads", "threads", ""), ("missing", "without", "")),
    "baseline": (
        ("ratio", "whole story", " x"),
        ("first_frame_ratio", "first frame", " x"),
        ("num_stories", "stories", ""),
    ),
    "h264": (
        ("none_fps", "none", " fps"),
        ("beside_fps", "beside", ""),
        ("inline_fps", "inline", ""),
        ("smooth_beside_fps", "smooth beside", ""),
        ("smooth_inline_fps", "inline", ""),
        ("decoded_ms", "a frame", " ms"),
        ("smooth_ms", "smooth", " ms"),
    ),
    "latency": _LATENCY,
    "parts": (
        ("denoise_ms", "denoise", " ms a frame"),
        ("decode_ms", "decode", ""),
        ("commit_ms", "commit", ""),
        ("keep_ms", "keep", ""),
        ("text_ms", "text", ""),
        ("h264_ms", "H.264", ""),
    ),
    "denoise": (
        ("pass_ms", "pass", " ms"),
        ("chunk_pass_ms", "by chunk", ""),
        ("tflops", "", " Tflop/s"),
        ("of_matmul", "of products", ""),
        ("off_by", "off", ""),
        ("warm_up_s", "warm-up", " s"),
    ),
    "decode": (
        ("chunk_ms", "chunk", " ms"),
        ("first_chunk_ms", "first", " ms"),
        ("levels_off", "off", " levels"),
        ("warm_up_s", "warm-up", " s"),
        ("peak_gb", "peak", " GB"),
    ),
    "encode": (
        ("first_shot_ms_per_frame", "a frame", " ms"),
        ("late_shot_ms", "late shot", " ms"),
    ),
    "shots": (("chunk_ms", "later chunk by shot", " ms"), ("last_by_first", "last/first", "")),
    "ceilings": (
        ("bfloat16_tflops", "bf16", " Tflop/s"),
        ("float8_tflops", "float8", ""),
        ("int8_tflops", "int8", ""),
        ("copy_gbyte_per_s", "copy", " GB/s"),
    ),
    "attention": (("tflops", "Tflop/s at three lengths", ""), ("off_by", "off", "")),
}
"""Values that are printed for each benchmark, with label and unit."""


def _number(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{name} {_number(one)}" for name, one in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "/".join(map(_number, value))
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def _finite(value: Any) -> Any:
    """Returns a value for JSON: floats rounded to five digits, None for one that is not finite."""
    if isinstance(value, float):
        return float(f"{value:.5g}") if abs(value) < float("inf") else None
    if isinstance(value, Mapping):
        return {str(name): _finite(one) for name, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite(one) for one in value]
    return value if isinstance(value, str | int | bool | None) else str(value)
