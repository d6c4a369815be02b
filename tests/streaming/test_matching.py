"""Matching: what two captions have in common, and the model's own queries and keys."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from shotstream.model.attention import SelfAttention
from shotstream.model.positions import context_positions
from shotstream.story import Reference
from shotstream.streaming.context_candidates import Comparison, ContextCandidate, Match
from shotstream.streaming.matching import Facts, facts_of, match_facts
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.streaming.pipeline_config import read_and_settled
from shotstream.streaming.shot_memory import ShotMemory
from tests.streaming.tiny import tiny_pipeline

GLOBAL = "A red fox, a blue owl and a grey bear in the meadow by day."
CAPTIONS = (
    "Wide shot: the red fox walks to the left.",
    "Close-up: the owl sleeps in the forest.",
    "Wide shot: the grey bear waves in the city and the owl dances.",
    "Medium shot: she jumps in the meadow.",
)


def facts(captions: tuple[str, ...], global_caption: str = GLOBAL) -> Facts:
    return facts_of(read_and_settled(global_caption, captions, 0).reading)


def test_the_facts_are_what_the_reader_understood() -> None:
    """What captions leave out is filled in: the colour of the owl, the place of the first shot."""
    assert facts(CAPTIONS[:1]) == Facts(things=("red fox", "meadow"), framing="wide")
    assert facts(CAPTIONS[:2]) == Facts(
        things=("blue owl", "forest"), framing="close-up", hides=frozenset({"forest"})
    )
    assert set(facts(CAPTIONS[:3]).things) == {"grey bear", "blue owl", "city"}


def test_a_match_is_what_both_show_of_what_either_shows() -> None:
    one = Facts(things=("red fox", "meadow"), framing="wide")
    assert match_facts(one, one) == Match(score=1.0, shared=("red fox", "meadow"))
    closer = Facts(things=("red fox", "meadow"), framing="medium")
    assert match_facts(one, closer) == Match(score=2 / 2.2, shared=("red fox", "meadow"))
    with_owl = Facts(things=("red fox", "blue owl", "meadow"), framing="wide")
    assert match_facts(with_owl, one) == Match(score=2.1 / 3.1, shared=("red fox", "meadow"))
    elsewhere = Facts(things=("red fox", "city"), framing="wide")
    assert match_facts(elsewhere, one) == Match(score=1.1 / 3.1, shared=("red fox",))
    assert match_facts(Facts(things=("grey bear", "city"), framing="wide"), one) is None


def test_a_close_up_does_not_show_its_place() -> None:
    close = Facts(things=("red fox", "meadow"), framing="close-up", hides=frozenset({"meadow"}))
    match = match_facts(close, Facts(things=("red fox", "meadow"), framing="close-up"))
    assert match == Match(score=1.0, shared=("red fox",))


def memories(pipeline: StreamingPipeline, counts: tuple[int, ...]) -> list[ContextCandidate]:
    generator = torch.Generator().manual_seed(3)
    channels, _, height, width = pipeline.chunk_shape
    return [
        candidate
        for index, count in enumerate(counts)
        for candidate in ShotMemory(
            caption=CAPTIONS[index],
            num_frames=9,
            candidate_frames=tuple(range(count)),
            latents=torch.randn(count, channels, height, width, generator=generator),
        ).candidates(index)
    ]


def test_captions_of_the_theatre_are_matched_shot_by_shot() -> None:
    pipeline = tiny_pipeline(reads=True)
    candidates = memories(pipeline, (2, 1, 1))
    following = (*CAPTIONS[:3], "Wide shot: the owl waves in the city.")
    found = pipeline.matcher.match(GLOBAL, following, 0, "captions", candidates)
    assert found == [
        None,
        None,
        Match(score=1 / 3.2, shared=("blue owl",)),
        Match(score=2.1 / 3.1, shared=("blue owl", "city")),
    ]


def test_a_citation_is_matched_as_the_caption_of_its_reference() -> None:
    pipeline = tiny_pipeline(reads=True)
    candidates = memories(pipeline, (1, 1, 1))
    cited = ("Wide shot: @scout walks to the left.", *CAPTIONS[1:3], "Wide shot: @scout in @home.")
    scout = Reference(id="scout", image="scout.png", caption="the red fox.")
    home = Reference(id="home", image="home.png", caption="the meadow", role="place")
    match = pipeline.matcher.match_function("@scout, an owl and a bear.", cited, (scout, home), 0)
    read = (CAPTIONS[0], *CAPTIONS[1:3], "Wide shot: the red fox in the meadow.")
    expected = pipeline.matcher.match("the red fox, an owl and a bear.", read, 0, "captions", candidates)
    assert match("captions", candidates) == expected
    assert expected[0] is not None and "red fox" in expected[0].shared


def steered(pipeline: StreamingPipeline) -> list[ContextCandidate]:
    """Frames of a shot, of which the last two were generated under a second caption."""
    channels, _, height, width = pipeline.chunk_shape
    latents = torch.randn(4, channels, height, width, generator=torch.Generator().manual_seed(3))
    return ShotMemory(
        caption="a fox walks",
        later_captions=((2, "a owl flies"),),
        num_frames=9,
        candidate_frames=(0, 1, 2, 3),
        latents=latents,
    ).candidates(0)


@pytest.mark.parametrize("compares", ["captions", "keys"])
def test_a_frame_of_a_steered_shot_is_matched_under_its_own_caption(compares: Comparison) -> None:
    pipeline = tiny_pipeline()
    candidates = steered(pipeline)
    found = pipeline.matcher.match(
        "forest", (("a fox walks", "a owl flies"), "a fox sleeps"), 0, compares, candidates
    )
    before = pipeline.matcher.match(
        "forest",
        ("a fox walks", "a fox sleeps"),
        0,
        compares,
        [replace(one, caption_index=0) for one in candidates[:2]],
    )
    assert found[:2] == before
    assert all(one is not None for one in found) and found[2] != before[0]
    if compares == "captions":
        assert found[0] == found[1] and found[2] == found[3]
        text, last = (
            pipeline.compose("forest", told)
            for told in ([("a fox walks", "a owl flies")], [("a fox walks", "a owl flies"), "a fox sleeps"])
        )
        one, other = (
            pipeline.text_encoder.encode([t])[0, : min(pipeline.text_encoder.count_tokens(t), 6)].mean(0)
            for t in (text, last)
        )
        score = torch.nn.functional.cosine_similarity(one, other, dim=0).item()
        assert found[2] is not None and found[2].score == pytest.approx(score, abs=1e-6)


def test_captions_of_other_models_are_matched_by_their_embeddings() -> None:
    pipeline = tiny_pipeline()
    candidates = memories(pipeline, (1, 2, 1))
    captions = ("a fox walks", "a owl flies", "a fox sleeps", "a fox walks")
    found = pipeline.matcher.match("forest", captions, 0, "captions", candidates)
    texts = [pipeline.compose("forest", captions[: index + 1]) for index in range(4)]
    num_tokens = [min(pipeline.text_encoder.count_tokens(text), 6) for text in texts]
    means = [
        pipeline.text_encoder.encode([text])[0, :count].mean(0).detach().numpy()
        for text, count in zip(texts, num_tokens, strict=True)
    ]
    scores = [one @ means[3] / np.linalg.norm(one) / np.linalg.norm(means[3]) for one in means[:3]]
    expected = [scores[0], scores[1], scores[1], scores[2]]
    assert [one.score for one in found if one] == pytest.approx(expected, abs=1e-6)
    assert found[0] is not None and found[0].score == pytest.approx(1.0)


def _projected(pipeline: StreamingPipeline, name: str, run: object) -> Tensor:
    """The outputs of a norm of all layers, "n l d", while `run` runs: keys or queries before RoPE."""
    found: list[Tensor] = []
    hooks = [
        getattr(block.self_attn, name).register_forward_hook(
            lambda _module, _inputs, output: found.append(output[0])
        )
        for block in pipeline.dit.blocks
        if isinstance(block.self_attn, SelfAttention)
    ]
    assert callable(run)
    run()
    for hook in hooks:
        hook.remove()
    return torch.stack(found, dim=1)


def test_keys_are_the_mean_keys_before_rope_times_the_mean_query() -> None:
    pipeline = tiny_pipeline(reads=True)
    candidates = memories(pipeline, (3,))
    following = CAPTIONS[:2]
    found = pipeline.matcher.match(GLOBAL, following, 0, "keys", candidates)
    # The same matcher has remembered all of it: nothing is computed again.
    assert pipeline.matcher.match(GLOBAL, following, 0, "keys", candidates) == found
    texts = [pipeline.compose(GLOBAL, CAPTIONS[: index + 1]) for index in range(2)]
    frames = torch.stack([one.latent() for one in candidates], dim=1)[None]
    zeros = torch.zeros(1, 3, dtype=torch.long)
    positions = context_positions(zeros, zeros)
    with torch.no_grad():
        keys = _projected(
            pipeline,
            "norm_k",
            lambda: pipeline.dit(frames, torch.zeros(1, 3), pipeline.text_cache(texts[:1]), positions),
        )
        noise = torch.randn(1, *pipeline.chunk_shape, generator=torch.Generator().manual_seed(0))
        queries = _projected(
            pipeline,
            "norm_q",
            lambda: pipeline.dit(noise, torch.ones(1, 3), pipeline.text_cache(texts[1:]), positions),
        )
    scores = (keys.unflatten(0, (3, -1)).mean(1) * queries.mean(0)).flatten(1).mean(1)
    assert [one.score for one in found if one] == pytest.approx(scores.tolist(), rel=1e-3, abs=1e-6)
    assert len(set(scores.tolist())) == 3


def test_keys_depend_on_the_next_caption_and_on_the_frames() -> None:
    pipeline = tiny_pipeline(reads=True)
    candidates = memories(pipeline, (1, 1))

    def scores(caption: str) -> list[float]:
        told = (*CAPTIONS[:2], caption)
        return [one.score for one in pipeline.matcher.match(GLOBAL, told, 0, "keys", candidates) if one]

    assert scores(CAPTIONS[2]) != scores(CAPTIONS[3])
    assert scores(CAPTIONS[2])[0] != scores(CAPTIONS[2])[1]
