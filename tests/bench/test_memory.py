import json

import pytest
import torch

from shotstream.bench.memory import decode_peak, engine_memory, pass_peak, peak_of
from shotstream.bench.models import WAN_TINY, BenchModel, load_bench_model
from shotstream.geometry import PixelSize
from shotstream.streaming.switches import Switches

SMALL = PixelSize(32, 48)


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


@pytest.mark.parametrize("switches", [Switches(), Switches(weights="float8", float8_cache=True)])
def test_weights_and_caches_are_those_of_a_loaded_model(switches: Switches) -> None:
    computed = engine_memory(WAN_TINY, SMALL, torch.float32, switches)
    model = BenchModel(name=WAN_TINY, is_random=True, size=SMALL, device="cpu", switches=switches)
    engine = load_bench_model(model).engine
    tensors = [*engine.dit.parameters(), *engine.dit.buffers()]
    assert computed.transformer == sum(tensor.nbytes for tensor in tensors)
    cache = sum(stored.nbytes for layer in engine.borrow_cache().layers for stored in layer)
    captions = engine.text_cache([f"caption {number}" for number in range(engine.context_budget + 2)])
    keys = sum(part.nbytes for layer in captions.layers for part in layer)
    assert computed.caches == cache + keys
    assert computed.least_card_gib == 8 and computed.total > 10**9


def test_tensors_without_contents_need_what_real_ones_do() -> None:
    """Fused attention on a CPU keeps a number per query and head beside its result."""
    from shotstream.bench import memory

    config = memory.random_config(WAN_TINY, with_text=False)
    empty = memory._empty_engine(config, SMALL, torch.float32, Switches())
    real = load_bench_model(BenchModel(name=WAN_TINY, is_random=True, size=SMALL, device="cpu")).engine
    assert decode_peak(empty) == decode_peak(real)
    assert pass_peak(empty) == pytest.approx(pass_peak(real), rel=0.1)


@pytest.mark.slow
def test_the_published_model_needs_what_was_worked_out_by_hand() -> None:
    size, half = PixelSize(480, 832), torch.bfloat16
    whole = engine_memory("wan-1.3b", size, half, Switches())
    saved = engine_memory(
        "wan-1.3b", size, half, Switches(weights="float8", float8_cache=True, offload_text=True)
    )
    assert whole.transformer == 2 * 1_418_996_800
    cache = 2 * 30 * (6 + 21) * 30 * 52 * 1536
    assert whole.caches - saved.caches == cache
    assert saved.transformer < 0.52 * whole.transformer
    assert saved.text_encoder < whole.text_encoder / 20
    assert saved.total < whole.total - 15e9


def test_the_command_prints_every_combination(capsys: pytest.CaptureFixture[str]) -> None:
    from shotstream import cli

    with pytest.raises(SystemExit) as end:
        cli.main(["bench", "memory", "--model", WAN_TINY, "--size", "32x48"])
    assert not end.value.code
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document["computed"] is True
    assert sum(name.endswith("card_gib") for name in document) == 8
