"""A run has one length, and its learning rate rises to the peak and falls, whatever that length is."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shotstream.training.rates import rate_factor
from shotstream.training.recipe import Recipe
from shotstream.training.recipes import RECIPES, from_document, recipe, to_document
from shotstream.training.run import prepare_run, recipe_of_run, run_recipe
from shotstream.training.stages.codec import CodecTraining
from shotstream.training.stages.inter_shot import InterShotTraining
from shotstream.training.stages.intra_shot import IntraShotTraining
from shotstream.training.stages.ode_pairs import OdePairsTraining
from tests.training.test_run import codec

SCHEDULED = [name for name in RECIPES if name.endswith(("_codec", "_decoder", "_text", "_teacher", "_init"))]
MATCHING = [name for name in RECIPES if name.endswith("_shot")]
LENGTHS = (1, 3, 60, 2401, 12_000, 20_000)


def own_length(made: Recipe) -> int:
    stage: Any = made.stage
    return (
        stage.dmd.num_steps if isinstance(stage, IntraShotTraining | InterShotTraining) else stage.num_steps
    )


def test_the_rate_rises_stays_and_falls_by_the_written_table() -> None:
    ten = [rate_factor(step, num_steps=10, warmup_steps=4, decay_steps=5) for step in range(-1, 12)]
    assert ten == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1, 1, 0.8, 0.6, 0.4, 0.2, 0, 0])
    assert [rate_factor(step, num_steps=3) for step in range(4)] == [1, 1, 1, 0], "constant, to the end"
    whole = [rate_factor(step, num_steps=4, warmup_steps=2, decay_steps=4) for step in range(4)]
    assert whole == pytest.approx([0.5, 0.75, 0.5, 0.25]), "both at once: their product"


def test_what_does_not_fit_into_a_short_run_is_shortened_with_it() -> None:
    short = [rate_factor(step, num_steps=4, warmup_steps=100, decay_steps=1000) for step in range(4)]
    assert short == pytest.approx([0.5, 0.75, 0.5, 0.25])
    assert rate_factor(0, num_steps=1, warmup_steps=100, decay_steps=1000) == 1, "one step is at the peak"


@pytest.mark.parametrize("name", SCHEDULED)
@pytest.mark.parametrize("num_steps", LENGTHS)
def test_no_recipe_of_any_length_has_a_rate_below_zero_or_above_the_peak(name: str, num_steps: int) -> None:
    """`theatre_teacher` of 20,000 steps once ended at -1.1 times its rate, `wan_teacher` of 12,000 at
    -1999 times.
    """
    made = recipe(name, [f"loop.num_steps={num_steps}"])
    assert own_length(made) == num_steps
    stage: Any = made.stage
    rates = [stage.rate(step) for step in range(0, num_steps, max(1, num_steps // 60))]
    rates.append(stage.rate(num_steps - 1))
    assert all(0 < rate <= 1 and math.isfinite(rate) for rate in rates)
    assert max(rates) > 0.5, "it comes near the peak"
    assert stage.rate(num_steps) == stage.rate(10 * num_steps) == 0


@pytest.mark.parametrize(
    ("name", "at"),
    [
        # step: factor, by hand from the documented warm-up and decay
        ("theatre_codec", {0: 1 / 30, 14: 0.5 * (1 - 14 / 2000), 1000: 0.5, 1999: 1 / 2000}),
        ("theatre_text", {0: 1 / 50, 24: 0.5 * (1 - 24 / 1600), 800: 0.5, 1599: 1 / 1600}),
        ("theatre_decoder", {0: 1 / 30, 29: 1, 1499: 1, 1500: 1, 1950: 0.5, 2399: 1 / 900}),
        ("theatre_teacher", {0: 0.01, 49: 0.5, 99: 1, 17_900: 1, 18_400: 0.5, 18_899: 0.001}),
        ("theatre_causal_init", {0: 0.02, 49: 1 - 49 / 2400, 1200: 0.5, 2399: 1 / 2400}),
        ("mini_teacher", {18_899: 1, 18_900: 1, 19_100: 0.5, 19_299: 1 / 400}),
        ("mini_causal_init", {0: 0.1, 75: 0.5, 149: 1 / 150}),
        ("wan_teacher", {0: 1, 5000: 1, 9999: 1}),
        ("wan_causal_init", {0: 1, 1999: 1}),
    ],
)
def test_each_recipe_as_it_is_has_the_rates_it_always_had(name: str, at: dict[int, float]) -> None:
    stage: Any = recipe(name).stage
    assert {step: stage.rate(step) for step in at} == pytest.approx(at)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_has_the_length_of_its_loop_however_it_was_made(name: str) -> None:
    made = recipe(name, ["loop.num_steps=77"])
    assert made.loop.num_steps == 77
    longer = replace(made, loop=replace(made.loop, num_steps=99))
    document = to_document(made)
    document["loop"]["num_steps"] = 55  # as an earlier run may have it, of two lengths
    read = from_document(document)
    if isinstance(made.stage, OdePairsTraining):
        assert read.stage == longer.stage == made.stage
        with pytest.raises(ValueError, match="there is no setting"):
            recipe(name, ["stage.num_steps=77"])
    else:
        assert (own_length(made), own_length(longer), own_length(read)) == (77, 99, 55)


@pytest.mark.parametrize("name", [*SCHEDULED, *MATCHING])
def test_the_stages_name_of_the_length_means_the_runs(name: str) -> None:
    """Commands once gave both; two lengths that differ say nothing that could be meant."""
    own = "stage.dmd.num_steps" if name in MATCHING else "stage.num_steps"
    assert recipe(name, [f"{own}=64"]) == recipe(name, ["loop.num_steps=64"])
    both = recipe(name, [f"{own}=64", "loop.num_steps=64"])
    assert both == recipe(name, ["loop.num_steps=64"])
    with pytest.raises(ValueError, match=f"loop.num_steps is 64 and {own} 65.*give loop.num_steps alone"):
        recipe(name, ["loop.num_steps=64", f"{own}=65"])


@pytest.mark.parametrize("name", MATCHING)
def test_a_student_that_would_never_learn_is_refused(name: str) -> None:
    """A run as short as the fake score's warm-up once ended with the student that it began with."""
    warmup = recipe(name).stage.dmd.fake_warmup_steps  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=f"fake_warmup_steps is {warmup} of {warmup} steps"):
        recipe(name, [f"loop.num_steps={warmup}"])
    short = ["loop.num_steps=2", "stage.dmd.fake_warmup_steps=1"]
    for overrides in (short, short[::-1]):  # what one of them alone would make impossible, in either order
        assert recipe(name, overrides).loop.num_steps == 2


def saved(recipe: Recipe, runs: Path) -> None:
    (runs / recipe.name).mkdir(parents=True)
    (runs / recipe.name / "config.json").write_text(json.dumps(to_document(recipe)))


def checked(one: Recipe, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What resuming a run checks, without its inputs."""

    class Passed(Exception):
        pass

    def stop(*_: object) -> None:
        raise Passed

    monkeypatch.setattr("shotstream.training.run.checkpoints", lambda _: [Path("step_0000001.pt")])
    monkeypatch.setattr("shotstream.training.run._require_inputs", stop)
    with pytest.raises(Passed):
        prepare_run(one, runs)


@pytest.mark.parametrize("name", RECIPES)
def test_a_run_of_any_recipe_may_be_resumed_with_another_length(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A longer run of distribution matching was once refused: its length lies one level deeper."""
    saved(recipe(name), tmp_path)
    checked(recipe(name, ["loop.num_steps=123456", "loop.stop_at=7"]), tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("theatre_intra_shot", "dmd.teacher.learning_rate"),
        ("theatre_causal_init", "pairs.teacher.num_steps"),
        ("theatre_ode_pairs", "teacher.ema_decay"),
    ],
)
def test_a_setting_that_nothing_reads_does_not_stop_a_run(
    name: str, own: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = to_document(recipe(name))
    holder = document["stage"]
    *place, setting = own.split(".")
    for part in place:
        holder = holder[part]
    holder[setting] = holder[setting] / 2 if isinstance(holder[setting], float) else holder[setting] + 1
    (tmp_path / name).mkdir()
    (tmp_path / name / "config.json").write_text(json.dumps(document))
    checked(recipe(name), tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("name", "override", "said"),
    [
        ("theatre_intra_shot", "stage.dmd.guidance=2", "dmd.guidance"),
        ("theatre_intra_shot", "stage.dmd.teacher.batch_size=4", "dmd.teacher.batch_size"),
        ("theatre_inter_shot", "stage.dmd.teacher.shot_weights=[1.0]", "dmd.teacher.shot_weights"),
        ("theatre_teacher", "stage.dit.num_layers=2", "dit.num_layers"),
        ("theatre_codec", "stage.learning_rate=1", "learning_rate"),
    ],
)
def test_what_is_learnt_may_not_change_on_the_way(
    name: str, override: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(recipe(name), tmp_path)
    monkeypatch.setattr("shotstream.training.run.checkpoints", lambda _: [Path("step_0000001.pt")])
    with pytest.raises(ValueError, match=f"other values of {said};"):
        prepare_run(recipe(name, [override]), tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff\xfe", "it is no JSON"),
        (b'{"kind": "Recipe", ', "it is no JSON"),
        (b"[]", "holds no recipe"),
        (b'{"name": "x"}', "it has no kind None"),
        (b'{"kind": "LoopConfig"}', "LoopConfig has no num_steps"),
        (b'{"kind": "LoopConfig", "num_steps": 1, "pace": 2}', "LoopConfig has a setting pace"),
    ],
)
def test_a_damaged_configuration_of_a_run_is_named_in_a_persons_words(
    content: bytes, said: str, tmp_path: Path
) -> None:
    (tmp_path / "theatre_codec").mkdir()
    (tmp_path / "theatre_codec" / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"config\.json.*{said}"):
        recipe_of_run(tmp_path, "theatre_codec")


def test_a_stage_steps_at_the_rate_of_its_step_in_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the length of the run that was asked for, and not of the recipe: once it fell to zero too late."""
    asked: list[float] = []
    monkeypatch.setattr(
        "shotstream.training.stages.codec.MuonAdamW.step", lambda _, factor: asked.append(factor)
    )
    run_recipe(codec(8, "loop.stop_at=3"), tmp_path)
    run_recipe(codec(8), tmp_path)
    risen = [1 / 4, 2 / 4, 3 / 4, 1, 1, 1, 1, 1]
    assert asked == pytest.approx([share * (8 - step) / 8 for step, share in enumerate(risen)])
    assert isinstance(recipe_of_run(tmp_path, "theatre_codec").stage, CodecTraining)
