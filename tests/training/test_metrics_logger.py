"""What a person sees of a run: a live line in a terminal, plain lines elsewhere, TensorBoard where it is."""

import contextlib
import json
import logging
import os
import pty
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shotstream.training.metrics_logger import MetricsLogger, peak_memory_bytes


def watched(directory: Path, *, tensorboard: bool = False, speaks: bool = True) -> None:
    with MetricsLogger(
        directory,
        first=2,
        num_steps=8,
        log_every=2,
        batch_size=5,
        tensorboard=tensorboard,
        speaks=speaks,
    ) as metrics:
        for step in range(3, 7):
            metrics.stepped(step, {"loss": step / 4, **({"causal_loss": 1.0} if step == 3 else {})})
        metrics.previewed(6, {"memory": 0.5})


def lines(directory: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]


def test_an_entry_is_the_mean_since_the_last_and_a_scalar_counts_where_it_was_given(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What only causal steps have was once divided by the number of all steps."""
    with caplog.at_level(logging.INFO):
        watched(tmp_path)
    first, second, preview = lines(tmp_path)
    assert (first["step"], first["loss"], first["causal_loss"]) == (4, 0.875, 1.0)
    assert (second["step"], second["loss"]) == (6, 1.375) and "causal_loss" not in second
    assert second["samples_per_s"] == pytest.approx(5 * second["steps_per_s"], rel=1e-3)
    assert preview == {"step": 6, "memory": 0.5}
    *entries, end = [record.message for record in caplog.records]
    assert [json.loads(entry) for entry in entries] == lines(tmp_path)
    assert end.startswith("4 steps at ")


@pytest.mark.slow
def test_memory_that_was_held_once_is_told_ever_after(tmp_path: Path) -> None:
    size = peak_memory_bytes() + 10**8
    held = bytearray(b"1") * size  # written, so that the machine must give it
    del held
    assert size < peak_memory_bytes() < 2 * size + 10**9
    watched(tmp_path)
    assert lines(tmp_path)[0]["peak_memory_gb"] == pytest.approx(peak_memory_bytes() / 1e9, rel=0.01)


def read_all(terminal: int) -> bytes:
    """What is written to a terminal until its other end is closed, which Linux tells as an error."""
    shown = b""
    with contextlib.suppress(OSError):
        while part := os.read(terminal, 4096):
            shown += part
    return shown


def test_a_terminal_shows_one_live_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, end = pty.openpty()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with ThreadPoolExecutor(1) as reader:
        written = reader.submit(read_all, terminal)
        with os.fdopen(end, "w") as stderr, monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", stderr)
            watched(tmp_path)
        shown = written.result(timeout=250).decode()
    os.close(terminal)
    assert "loss 1.5000" in shown and "samples/s" in shown and "6/8" in shown
    assert "\x1b[2K" in shown, "the line is drawn over itself"
    assert len(lines(tmp_path)) == 3


def test_tensorboard_gets_what_the_log_gets(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    watched(tmp_path, tensorboard=True)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(4, 0.875), (6, 1.375)]
    assert [event.value for event in events.Scalars("memory")] == [0.5]


def test_without_tensorboard_one_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", None)
    with caplog.at_level(logging.INFO):
        watched(tmp_path, tensorboard=True)
    assert sum("no TensorBoard" in record.message for record in caplog.records) == 1
    assert not (tmp_path / "tensorboard").exists()


def test_of_several_processes_one_speaks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        watched(tmp_path, tensorboard=True, speaks=False)
    assert not list(tmp_path.iterdir()) and not caplog.records
