"""What is chosen for whom: the table in code against one written down, and what an expert's answers do."""

from copy import copy
from dataclasses import asdict, replace
from typing import Any, get_args

import pytest
import torch

from shotstream.streaming.choice import (
    TABLE,
    Choice,
    Expert,
    Machine,
    MemoryLevel,
    Needs,
    Options,
    choose,
)
from shotstream.streaming.inference_options import InferenceOptions
from shotstream.streaming.pipeline_config import Family

GB = 10**9
CPU = Machine(device_type="cpu")
TWO_CORES = Machine(device_type="cpu", num_cores=2)
TOLD_TWO = Machine(device_type="cpu", num_cores=2, num_threads=2)
TOLD_ONE = Machine(device_type="cpu", num_cores=2, num_threads=1)
H200 = Machine(device_type="cuda", capability=(9, 0), free_bytes=140 * GB, num_gpus=1)
CARD_24 = Machine(device_type="cuda", capability=(8, 9), free_bytes=24 * GB, num_gpus=1)
CARD_12 = Machine(device_type="cuda", capability=(8, 6), free_bytes=12 * GB, num_gpus=1)
GROUP = Machine(device_type="cuda", capability=(9, 0), num_gpus=4, num_processes=4)

WAN_ON_GPU = {
    "attention": "cudnn",
    "compile": True,
    "chunk_decode": True,
    "cudnn_benchmark": True,
    "overlap_chunks": True,
}
OLDER_GPU = {**WAN_ON_GPU, "attention": "sdpa"}
LOW = {"chunk_decode": False, "overlap_chunks": False, "offload_text": True}
LOWEST = {**LOW, "weights": "float8", "float8_cache": True}


def needs(_dtype: torch.dtype, inference_options: InferenceOptions) -> int:
    """About what the published model takes: 34, 21 and 15 GB."""
    return (15 if inference_options.float8_cache else 21 if inference_options.offload_text else 34) * GB


def run(family: Family, machine: Machine, options: Options | None = None, needs: Needs = needs) -> Choice:
    return choose(options or Options(), family, machine, needs)


@pytest.mark.parametrize(
    ("family", "machine", "dtype", "inference_options"),
    [
        ("theatre", CPU, torch.float32, {"num_threads": 1}),
        ("theatre", TWO_CORES, torch.float32, {"num_threads": 1, "overlap_chunks": True}),
        ("theatre", TOLD_TWO, torch.float32, {}),
        ("theatre", TOLD_ONE, torch.float32, {"overlap_chunks": True}),
        ("wan", TWO_CORES, torch.float32, {"chunk_decode": True}),
        ("wan", TOLD_ONE, torch.float32, {"chunk_decode": True, "overlap_chunks": True}),
        ("theatre", H200, torch.float32, {"overlap_chunks": True}),
        ("theatre", CARD_12, torch.float32, {"overlap_chunks": True}),
        ("wan", CPU, torch.float32, {"chunk_decode": True}),
        ("wan", H200, torch.bfloat16, WAN_ON_GPU),
        ("wan", CARD_24, torch.bfloat16, {**OLDER_GPU, **LOW}),
        ("wan", CARD_12, torch.bfloat16, {**OLDER_GPU, **LOWEST}),
        ("wan", GROUP, torch.bfloat16, {**WAN_ON_GPU, "compile": False, "overlap_chunks": False}),
        ("theatre", replace(TWO_CORES, num_processes=2), torch.float32, {"num_threads": 1}),
    ],
)
def test_a_machine_is_given_what_stands_here(
    family: Family, machine: Machine, dtype: torch.dtype, inference_options: dict[str, Any]
) -> None:
    choice = run(family, machine)
    assert choice.dtype == dtype
    assert choice.inference_options == InferenceOptions(**inference_options)


def test_only_little_memory_changes_pictures_of_itself() -> None:
    for family in ("theatre", "wan"):
        for machine in (CPU, TWO_CORES, H200, CARD_24, GROUP):
            assert run(family, machine).inference_options.suffix == ""
    assert run("wan", CARD_12).inference_options.suffix == " (float8 weights, float8 cache)"


def test_one_line_tells_what_memory_was_chosen_and_why() -> None:
    def line(machine: Machine) -> str:
        (only,) = run("wan", machine).told
        return only

    assert (
        line(H200)
        == "memory auto, 34.0 GB (computed) of the 140.0 GB that are free: everything stays on the GPU"
    )
    assert "memory low, 21.0 GB (computed) of the 24.0 GB" in line(CARD_24)
    assert "same pictures" in line(CARD_24)
    assert "even that takes 15.0 GB (computed) where 12.0 GB are free" in line(CARD_12)
    assert run("theatre", CPU).told == run("theatre", H200).told == run("wan", CPU).told == ()
    assert run("theatre", CPU, Options(memory="low")).told == (
        "memory low: the same pictures to rounding, slower",
    )


def test_a_second_gpu_is_named_and_not_taken() -> None:
    two = Machine(device_type="cuda", capability=(9, 0), free_bytes=80 * GB, num_gpus=2)
    choice = run("wan", two)
    assert choice.inference_options.codec_device is None
    assert "--codec-device cuda:1" in choice.told[-1]
    given = run("wan", two, Options(expert=Expert(codec_device="cuda:1")))
    assert given.inference_options == InferenceOptions(**WAN_ON_GPU, codec_device="cuda:1")
    assert len(given.told) == 1


def test_memory_that_was_asked_for_is_not_computed() -> None:
    def never(*_: object) -> int:
        raise AssertionError

    options = Options(memory="lowest")
    assert run("wan", H200, options, never).inference_options == InferenceOptions(**{**WAN_ON_GPU, **LOWEST})
    # A CPU's main memory is where everything is anyway.
    low = run("wan", CPU, Options(memory="low"), never).inference_options
    assert low == InferenceOptions()


def test_float8_multiplies_in_eight_bits_where_there_are_units_for_it() -> None:
    on_gpu = run("wan", H200, Options(precision="float8"))
    assert on_gpu.dtype == torch.bfloat16
    assert on_gpu.inference_options.weights == "float8-products"
    assert "8-bit attention" in on_gpu.inference_options.suffix and on_gpu.inference_options.compile
    on_cpu = run("theatre", CPU, Options(precision="float8"))
    assert on_cpu.dtype == torch.float32 and not on_cpu.inference_options.compile
    assert on_cpu.inference_options.suffix == on_gpu.inference_options.suffix
    assert "slow" in on_cpu.told[0]
    # The kernel of attention needs a generation more.
    on_ada = run("wan", CARD_24, Options(precision="float8")).inference_options
    assert (on_ada.weights, on_ada.attention) == ("float8-products", "sdpa")
    with pytest.raises(ValueError, match=r"8\.9 or above \(this one: 8\.6\)"):
        run("wan", CARD_12, Options(precision="float8"))
    # A byte a number already.
    saved = run("wan", H200, Options(precision="float8", memory="lowest")).inference_options
    assert saved.weights == "float8-products" and not saved.float8_cache
    asked = Options(memory="lowest", expert=Expert(attention="eight-bit"))
    assert run("wan", H200, asked).inference_options.cache_dtype == torch.int8


def test_an_experts_answer_takes_the_place_of_the_tables() -> None:
    for machine in (CPU, H200, CARD_24):
        refused = run("wan", machine, Options(expert=Expert(compile=False, overlap=False, attention="sdpa")))
        inference_options = refused.inference_options
        assert (inference_options.compile, inference_options.overlap_chunks) == (False, False)
        assert inference_options.attention == "sdpa"
    asked = run("theatre", CPU, Options(expert=Expert(compile=True, overlap=True))).inference_options
    assert asked == InferenceOptions(compile=True, num_threads=1, overlap_chunks=True)
    # Of float8, a GPU before Hopper has the products alone.
    ada = run("wan", CARD_24, Options(precision="float8")).inference_options
    assert (ada.weights, ada.attention) == ("float8-products", "sdpa")
    # In eight bits the cache has a byte a number of its own.
    for memory in get_args(MemoryLevel):
        options = Options(memory=memory, expert=Expert(attention="eight-bit"))
        assert not run("theatre", CPU, options).inference_options.float8_cache


@pytest.mark.parametrize(
    ("options", "name", "words"),
    [
        (Options(), "precision", "auto, float32, bfloat16 or float8"),
        (Options(), "memory", "auto, low or lowest"),
        (Expert(), "attention", "sdpa, cudnn or eight-bit"),
        (InferenceOptions(), "weights", "float8 or float8-products"),
        (InferenceOptions(), "attention", "sdpa, cudnn or eight-bit"),
    ],
)
def test_what_is_not_known_is_refused(options: Any, name: str, words: str) -> None:
    made = copy(options)
    object.__setattr__(made, name, "magic")  # as a constructor has it, where types are not checked
    with pytest.raises(ValueError, match=f"^{name} is 'magic'; give {words}$"):
        made.__post_init__()


def test_every_row_sets_a_switch_and_says_why() -> None:
    for row in TABLE:
        assert row.switch in asdict(InferenceOptions()) and len(row.why) > 40
