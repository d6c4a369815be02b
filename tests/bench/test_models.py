import pytest
import torch

from shotstream.bench.models import WAN_TINY, BenchModel, load_bench_model, parse_size
from shotstream.geometry import PixelSize
from shotstream.streaming.choice import Options

SMALL = PixelSize(32, 48)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["theatre", WAN_TINY])
def test_a_random_model_of_any_size_makes_a_shot_and_the_next(name: str) -> None:
    model = BenchModel(name=name, is_random=True, size=SMALL, device="cpu")
    pipeline = load_bench_model(model)
    session = pipeline.session("a fox", quiet=True)
    for caption in ("it walks", "it sleeps"):
        chunks = list(session.shot(caption, num_chunks=2))
        assert [chunk.frames.shape for chunk in chunks] == [(9, 32, 48, 3), (12, 32, 48, 3)]
        assert chunks[1].frames.std() > 0


@pytest.mark.slow
def test_random_latents_stay_finite_and_of_ordinary_size_in_bfloat16() -> None:
    """Overflowing or vanishing numbers would change how long arithmetic takes."""
    from shotstream.bench.denoise import later_shot
    from shotstream.streaming.noise import KeyedNoise
    from shotstream.streaming.rollout import Rollout

    model = BenchModel(
        name=WAN_TINY, is_random=True, size=SMALL, device="cpu", options=Options(precision="bfloat16")
    )
    pipeline = load_bench_model(model, with_text=False)
    assert pipeline.dtype == torch.bfloat16
    conditioning, text = later_shot(pipeline)
    noise = KeyedNoise(seeds=(0,), shape=pipeline.chunk_shape, device=pipeline.device)
    rollout = Rollout(pipeline.dit, conditioning, text, pipeline.borrow_cache(), noise, pipeline.sigmas(4))
    for latents in rollout.chunks(2):
        assert 0.01 < latents.std() < 100


@pytest.mark.slow
def test_a_real_model_takes_another_size() -> None:
    pipeline = load_bench_model(BenchModel(size=SMALL, device="cpu"))
    (chunk,) = pipeline.session("a fox", quiet=True).shot("it walks", num_chunks=1)
    assert chunk.frames.shape == (9, 32, 48, 3)


@pytest.mark.slow
def test_the_published_shape_is_known_without_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    from shotstream.bench import models
    from shotstream.weights.hub import WAN, WeightsNotFoundError

    def missing(name: object) -> None:
        raise WeightsNotFoundError(f"no {name}")

    monkeypatch.setattr(models, "resolve", missing)
    config = models.random_config(WAN, with_text=False)
    shapes = models.part_shapes(config)
    num_parameters = sum(torch.Size(shape).numel() for shape in shapes["dit"].values())
    assert num_parameters == 1_418_996_800
    assert config["engine"]["pixel_size"] == {"height": 480, "width": 832}


@pytest.mark.parametrize("text", ["480", "480x", "x832", "480x832x3", "-8x16", "a x b"])
def test_a_size_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="height x width"):
        parse_size(text)
