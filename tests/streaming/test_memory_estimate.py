"""What a film needs of memory: counted as it is, and the same on tensors without contents."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from shotstream.bench.memory import pipeline_memory
from shotstream.bench.models import WAN_TINY, random_bundle, random_config
from shotstream.geometry import PixelSize
from shotstream.model.dual_cache import DualCache
from shotstream.streaming import memory_estimate
from shotstream.streaming.choice import Choice
from shotstream.streaming.inference_options import InferenceOptions
from shotstream.streaming.loading import assemble_pipeline
from shotstream.streaming.memory_estimate import (
    MemoryEstimate,
    decode_peak,
    encode_peak,
    estimate_film_memory,
    pass_peak,
    peak_of,
)
from shotstream.streaming.parts import load_codec, load_dit
from shotstream.weights.bundle import Bundle
from shotstream.weights.students import STUDENTS

SMALL = PixelSize(32, 48)
CPU, META = torch.device("cpu"), torch.device("meta")


def tiny_bundle(directory: Path) -> Bundle:
    config = random_config(WAN_TINY, with_text=True)
    config = {**config, "engine": {**config["engine"], "pixel_size": asdict(SMALL)}}
    return random_bundle(config, directory, CPU, torch.float32)


def test_what_is_alive_at_the_same_time_is_added_up_and_what_is_dropped_is_not() -> None:
    def work() -> torch.Tensor:
        first = torch.zeros(1000)
        second = first + 1  # both are alive
        del first
        third = second * 2  # a view is no memory of its own
        return third[:10]

    peak = peak_of(work)
    assert (peak.peak, peak.kept) == (8000, 4000)
    # In place nothing is made.
    assert peak_of(lambda: torch.zeros(1000).add_(1).mul_(2)).peak == 4000


def test_a_film_needs_all_its_parts_and_a_gigabyte_for_what_is_not_counted() -> None:
    parts = {"transformer": 1, "caches": 20, "text_encoder": 300, "codec": 4000, "transient": 50_000}
    assert MemoryEstimate(**parts).total == 54_321 + 10**9


def test_a_visiting_text_encoder_needs_its_largest_layer_in_the_films_dtype() -> None:
    tensors = {
        "shared.weight": torch.zeros(100),
        "encoder.block.0.a": torch.zeros(3),
        "encoder.block.0.b": torch.zeros(4),
        "encoder.block.10.a": torch.zeros(9),
        "encoder.block.1.a": torch.zeros(5),
    }
    for inference_options, num_numbers in (
        (InferenceOptions(offload_text=True), 9),
        (InferenceOptions(), 121),
    ):
        for dtype in (torch.bfloat16, torch.float32):
            needed = memory_estimate._text_bytes(tensors, dtype, inference_options)  # pyright: ignore[reportPrivateUsage]
            assert needed == num_numbers * dtype.itemsize
    assert memory_estimate._text_bytes({}, torch.float32, InferenceOptions(offload_text=True)) == 0  # pyright: ignore


@pytest.mark.parametrize("name", ["longlive", "memflow", "reward-forcing", "rolling-forcing"])
def test_a_student_needs_its_window_and_not_its_shot(tmp_path: Path, name: str) -> None:
    base, student = tiny_bundle(tmp_path), random_config(name, with_text=False)
    rules = STUDENTS[name].rules
    assert rules is not None
    engine = {**student["engine"], "pixel_size": asdict(SMALL)}
    dit = {**base.config["dit"], "num_context_frames": 0, "window_chunks": 4}
    bundle = replace(base, config={**base.config, "engine": engine, "dit": dit})
    estimate = estimate_film_memory(bundle, torch.float32, InferenceOptions())
    pipeline = assemble_pipeline(
        bundle, CPU, Choice(dtype=torch.float32, inference_options=InferenceOptions())
    )
    captions = 2 * 2 * dit["num_layers"] * dit["text_length"] * dit["dim"] * 4
    assert estimate.caches == pipeline.borrow_cache().num_bytes + captions
    assert estimate.transient > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "inference_options", [InferenceOptions(), InferenceOptions(weights="float8", float8_cache=True)]
)
def test_weights_and_caches_are_those_of_a_loaded_model(
    tmp_path: Path, inference_options: InferenceOptions
) -> None:
    bundle = tiny_bundle(tmp_path)
    computed = estimate_film_memory(bundle, torch.float32, inference_options)
    pipeline = assemble_pipeline(
        bundle, CPU, Choice(dtype=torch.float32, inference_options=inference_options)
    )
    tensors = [*pipeline.dit.parameters(), *pipeline.dit.buffers()]
    assert computed.transformer == sum(tensor.nbytes for tensor in tensors)
    cache = sum(stored.nbytes for layer in pipeline.borrow_cache().layers for stored in layer)
    captions = pipeline.text_cache([f"caption {number}" for number in range(pipeline.context_budget + 2)])
    keys = sum(part.nbytes for layer in captions.layers for part in layer)
    assert computed.caches == cache + keys
    assert computed.total > 10**9


@pytest.mark.slow
def test_tensors_without_contents_need_what_real_ones_do(tmp_path: Path) -> None:
    """Fused attention on a CPU keeps a number per query and head beside its result; a single frame is
    encoded with other kernels there."""
    bundle = tiny_bundle(tmp_path)
    passes: list[int] = []
    decodes: list[object] = []
    encodes: list[int] = []
    for device in (CPU, META):
        dit = load_dit(bundle, device, torch.float32, InferenceOptions())
        codec = load_codec(bundle, device, torch.float32, InferenceOptions())
        grid = codec.geometry.token_grid(codec.geometry.latent_size(SMALL))
        cache = DualCache(dit.config, 1, grid, torch.float32, device)
        passes.append(pass_peak(dit, cache, codec, SMALL))
        frames = dit.config.chunk_latent_frames
        decodes.append(decode_peak(codec, frames, SMALL, device))
        encodes.append(encode_peak(codec, SMALL, device))
    assert decodes[0] == decodes[1]
    assert passes[0] == pytest.approx(passes[1], rel=0.1)
    assert encodes[0] == pytest.approx(encodes[1], rel=0.25)


@pytest.mark.slow
def test_what_runs_beside_needs_its_memory_beside_and_what_is_elsewhere_needs_none(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path)
    in_turn = estimate_film_memory(bundle, torch.float32, InferenceOptions())
    beside = estimate_film_memory(bundle, torch.float32, InferenceOptions(overlap_chunks=True))
    apart = estimate_film_memory(bundle, torch.float32, InferenceOptions(codec_device="cpu"))
    assert beside.transient > in_turn.transient >= apart.transient
    codec = load_codec(bundle, META, torch.float32, InferenceOptions())
    frames = bundle.config["dit"]["chunk_latent_frames"]
    kept = decode_peak(codec, frames, SMALL).kept
    numbers = sum(tensor.numel() for tensor in bundle.tensors["codec"].values())
    assert kept > 0 and in_turn.codec == beside.codec == 4 * numbers + kept
    assert (apart.codec, apart.text_encoder) == (0, 0)
    eight = estimate_film_memory(
        bundle, torch.float32, InferenceOptions(weights="float8-products", attention="eight-bit")
    )
    assert eight.caches < in_turn.caches and eight.transformer < in_turn.transformer
    visiting = estimate_film_memory(bundle, torch.float32, InferenceOptions(offload_text=True))
    assert 0 < visiting.text_encoder < in_turn.text_encoder


@pytest.mark.slow
def test_the_published_model_needs_what_was_worked_out_by_hand() -> None:
    size, half = PixelSize(480, 832), torch.bfloat16
    whole = pipeline_memory("wan-1.3b", size, half, InferenceOptions())
    saved = pipeline_memory(
        "wan-1.3b", size, half, InferenceOptions(weights="float8", float8_cache=True, offload_text=True)
    )
    assert whole.transformer == 2 * 1_418_996_800
    cache = 2 * 30 * (6 + 21) * 30 * 52 * 1536
    assert whole.caches - saved.caches == cache
    assert saved.transformer < 0.52 * whole.transformer
    assert saved.text_encoder < whole.text_encoder / 20
    assert saved.total < whole.total - 15e9
