import pytest
import torch

from shotstream.bench.light import LightSession, random_light_decoder
from shotstream.bench.models import WAN_TINY, BenchModel, load_bench_model
from shotstream.geometry import PixelSize


@pytest.mark.slow
def test_a_film_seen_lightly_shows_other_pictures_and_remembers_the_same() -> None:
    """Each shot is cut after its first chunk, the light one by the next."""
    model = BenchModel(name=WAN_TINY, is_random=True, size=PixelSize(32, 48), device="cpu")
    pipeline = load_bench_model(model)
    session = pipeline.session("a fox")
    light = LightSession(pipeline, random_light_decoder(pipeline), "a fox")
    shown = [
        [next(film.shot(text, num_chunks=2, steps=1)).frames for film in (session, light)]
        for text in ("it walks", "it sleeps", "it runs")
    ]
    assert all(ours.shape == theirs.shape and (ours != theirs).any() for ours, theirs in shown)
    assert len(light.shots) == 2
    for ours, theirs in zip(session.shots, light.shots, strict=False):
        assert (ours.num_chunks, ours.candidate_frames) == (theirs.num_chunks, theirs.candidate_frames)
        assert torch.equal(ours.latents, theirs.latents)
