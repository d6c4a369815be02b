"""Reports of benchmarks: rows for the user, one line of JSON for programs, and the environment.

Numbers of a report are medians and 95th percentiles of repetitions, never their best.
"""

import json
import platform
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import shotstream
from shotstream.streaming.pipeline import StreamingPipeline


@dataclass(frozen=True, slots=True)
class Spread:
    """The repetitions of one measurement."""

    samples: tuple[float, ...]

    @property
    def p50(self) -> float:
        """Median; 0 without samples."""
        return self.quantile(0.5)

    @property
    def p95(self) -> float:
        """95th percentile; 0 without samples."""
        return self.quantile(0.95)

    def quantile(self, level: float) -> float:
        """Returns the value below which a share `level` of the samples is; 0 without samples."""
        return float(np.quantile(self.samples, level)) if self.samples else 0.0

    def document(self) -> dict[str, float | int]:
        """Returns the spread for JSON."""
        return {
            "p50": _rounded(self.p50),
            "p95": _rounded(self.p95),
            "min": _rounded(min(self.samples, default=0.0)),
            "max": _rounded(max(self.samples, default=0.0)),
            "count": len(self.samples),
        }


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a report: one measured quantity."""

    key: str
    """Name in the JSON line, with its unit."""
    label: str
    """Label for the user, with its unit."""
    value: float | int | Spread


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """The result of one benchmark."""

    bench: str
    """Name of the benchmark, as in the command."""
    facts: Mapping[str, object]
    """Hardware, software, model and setup."""
    rows: tuple[Row, ...]

    def table(self) -> list[tuple[str, str]]:
        """Returns (label, value) for a table; p50 / p95 for repetitions."""
        return [(row.label, _shown(row.value)) for row in self.rows]

    def json_line(self) -> str:
        """Returns the report as one line of JSON."""
        values = {
            row.key: row.value.document() if isinstance(row.value, Spread) else _rounded(row.value)
            for row in self.rows
        }
        return json.dumps({"bench": self.bench, **self.facts, **values})

    def value(self, key: str) -> float | int:
        """Returns a row's number, the median for repetitions; raises KeyError without such a row."""
        for row in self.rows:
            if row.key == key:
                return row.value.p50 if isinstance(row.value, Spread) else row.value
        raise KeyError(key)


def pipeline_facts(pipeline: StreamingPipeline) -> dict[str, object]:
    """Returns facts about the model, the machine and the software."""
    return {
        "model": pipeline.model_id,
        "weights_sha256": pipeline.weights_sha256 or "random",
        "num_steps": pipeline.num_steps,
        "pixel_size": [pipeline.pixel_size.height, pipeline.pixel_size.width],
        "dtype": str(pipeline.dtype).removeprefix("torch."),
        **machine_facts(pipeline.device),
    }


def machine_facts(device: torch.device) -> dict[str, object]:
    """Returns facts about hardware and software."""
    gpu = {"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
    return {
        "device": device.type,
        **gpu,
        "cpu": _cpu_name(),
        "num_threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "shotstream": shotstream.__version__,
        "commit": _commit(),
    }


def gpus_of(*devices: torch.device) -> dict[str, torch.device]:
    """Returns the GPUs among devices, each once: "gpu", or "gpu_0", "gpu_1" for several."""
    found = [device for device in dict.fromkeys(devices) if device.type == "cuda"]
    return {"gpu" if len(found) == 1 else f"gpu_{place}": device for place, device in enumerate(found)}


def peak_bytes(*devices: torch.device) -> dict[str, int]:
    """Returns the peak memory of the process so far, and of each GPU among its devices."""
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    peaks = {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    for name, device in gpus_of(*devices).items():
        peaks[name] = torch.cuda.max_memory_allocated(device)
    return peaks


def peak_rows(*devices: torch.device) -> tuple[Row, ...]:
    """Returns peak memory as rows."""
    return tuple(
        Row(f"peak_{kind}_mb", f"peak memory, {kind}, MB", peak / 1e6)
        for kind, peak in peak_bytes(*devices).items()
    )


def synchronize(device: torch.device) -> None:
    """Waits for all queued work of a GPU; does nothing for a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def milliseconds(samples_s: Sequence[float]) -> Spread:
    """Returns repetitions measured in seconds, in milliseconds."""
    return Spread(tuple(1e3 * sample for sample in samples_s))


def _shown(value: float | int | Spread) -> str:
    if isinstance(value, Spread):
        return f"{_number(value.p50)} / {_number(value.p95)}"
    return _number(value)


def _number(value: float | int) -> str:
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _rounded(value: float | int) -> float | int:
    return value if isinstance(value, int) else float(f"{value:.5g}")


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.stdout.strip()
