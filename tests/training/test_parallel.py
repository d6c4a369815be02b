"""Two processes against one, over gloo: the same losses and weights, from the same batch."""

import json
import shutil
from itertools import chain
from pathlib import Path

import pytest
import torch
from torch import Tensor

from shotstream.data.ode_pairs import OdePairs
from shotstream.training.checkpoint import checkpoints, load_checkpoint
from shotstream.training.dist_context import DistContext
from shotstream.training.parallelize import ParallelConfig
from tests.training.processes import train
from tests.training.test_run import CODEC, MODEL, TEACHER

NUM_STEPS = 10
STAGES = (
    "theatre_codec",
    "theatre_teacher",
    "theatre_ode_pairs",
    "theatre_causal_init",
    "theatre_intra_shot",
    "theatre_inter_shot",
)
MATCHING = (
    "train.matmul_dtype=float32", "optim.learning_rate=1e-3", "stage.fake_learning_rate=1e-3",
    "stage.fake_warmup_steps=3", "stage.fake_updates=1",
)  # fmt: skip
OWN: dict[str, tuple[str, ...]] = {
    "theatre_codec": (*CODEC, "data.batch_size=4"),
    "theatre_teacher": (
        *TEACHER, "data.batch_size=4", "train.matmul_dtype=float32", "optim.warmup_steps=5",
        "optim.learning_rate=5e-3",
    ),
    "theatre_ode_pairs": (*TEACHER, "data.batch_size=4", "stage.substeps=2"),
    "theatre_causal_init": (
        *MODEL, "train.matmul_dtype=float32", "optim.learning_rate=2e-3", "optim.warmup_steps=5",
    ),
    "theatre_intra_shot": (*TEACHER, "data.batch_size=4", *MATCHING),
    "theatre_inter_shot": (
        *MODEL, "data.batch_size=4", "data.num_latent_frames=[3, 6]", "stage.lora_rank=2", *MATCHING,
    ),
}  # fmt: skip


def order(runs: Path, name: str, num_steps: int, *more: str) -> list[str]:
    """An order of a tiny recipe whose models move enough to be seen moving."""
    loop = [f"train.num_steps={num_steps}", "train.log_every=1", "train.preview_every=1000"]
    loop += ["train.save_every=5", "train.keep=9"]
    return [str(runs), name, *OWN[name], *loop, *more]


def steps_of(name: str) -> int:
    return 5 if name == "theatre_ode_pairs" else NUM_STEPS


def beside(runs: Path, inputs: Path, name: str) -> Path:
    """A folder of runs in which a recipe finds the inputs of another, so that its own work is compared."""
    shutil.copytree(inputs, runs, ignore=shutil.ignore_patterns(name))
    return runs


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All stages, trained by one process without a pause."""
    runs = tmp_path_factory.mktemp("alone")
    train([order(runs, name, steps_of(name)) for name in STAGES])
    return runs


@pytest.fixture(scope="module")
def together(alone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each stage by two processes from the same inputs: `NAME` without a pause, `NAME-resumed` with one, and
    no longer than to its first checkpoint.
    """
    folder = tmp_path_factory.mktemp("together")
    orders = []
    for name in STAGES:
        whole = beside(folder / name, alone, name)
        parts = beside(folder / f"{name}-resumed", alone, name)
        orders += [order(whole, name, steps_of(name))]
        for pause in (3, 5):
            orders += [order(parts, name, steps_of(name), f"train.stop_at={pause}")]
    train(orders, 2)
    return folder


def state(run: Path, index: int = -1) -> dict[str, Tensor]:
    """Everything that a run learnt, by name, as one of its checkpoints holds it."""
    _, saved = load_checkpoint(checkpoints(run)[index])
    tensors = {part: saved[part] for part in ("weights", "ema", "fake") if part in saved}
    return {
        f"{part}.{name}": value.float()
        for part, values in tensors.items()
        for name, value in values.items()
        if isinstance(value, Tensor)
    }


def losses(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{name: line[name] for name in line if "loss" in name} for line in lines]


def counts(name: str) -> bool:
    """Whether a value is learnt: a shift before a normalisation over the batch has no gradient but rounding,
    which Adam makes a step of, and the normalisation's running mean follows it.
    """
    return not name.endswith(("to_latent.bias", "encoder.2.down.bias", "normalise.running_mean"))


def distance(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    assert left.keys() == right.keys()
    return max((left[name] - right[name]).abs().max().item() for name in left if counts(name))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", [name for name in STAGES if name != "theatre_ode_pairs"])
def test_two_processes_learn_what_one_learns(alone: Path, together: Path, name: str) -> None:
    """Losses to the digits of the log; weights, after steps of up to 1e-2, to 1e-4 (seen: 5e-6)."""
    run = together / name / name
    assert checkpoints(run)[-1].is_dir() and checkpoints(alone / name)[-1].is_file()
    one, two = losses(alone / name), losses(run)
    assert len(one) == len(two) == NUM_STEPS
    for left, right in zip(one, two, strict=True):
        assert left.keys() == right.keys()
        for key in left:
            assert right[key] == pytest.approx(left[key], rel=1e-3, abs=2e-5), (left, right)
    ended, two_ended = state(alone / name), state(run)
    assert distance(ended, two_ended) < 1e-4


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_processes_make_the_pairs_that_one_makes(alone: Path, together: Path) -> None:
    for path in sorted((alone / "theatre_ode_pairs").glob("pairs_*")):
        one = OdePairs.read(path)
        for suffix in ("", "-resumed"):
            two = OdePairs.read(together / f"theatre_ode_pairs{suffix}" / "theatre_ode_pairs" / path.name)
            assert two.captions == one.captions
            torch.testing.assert_close(two.states, one.states, rtol=2e-3, atol=4e-3)  # half precision


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", [name for name in STAGES if name != "theatre_ode_pairs"])
def test_two_processes_that_paused_end_where_they_would_have_ended(together: Path, name: str) -> None:
    whole, parts = state(together / name / name, 0), state(together / f"{name}-resumed" / name)
    assert checkpoints(together / name / name)[0].name == "step_0000005"
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_goes_on_with_any_number_of_processes_and_in_any_parts(alone: Path, tmp_path: Path) -> None:
    """One process, two, and one again, the last in two parts; activations computed twice in the middle."""
    name = "theatre_teacher"
    runs = beside(tmp_path / "runs", alone, name)
    train([order(runs, name, NUM_STEPS, "train.stop_at=3")])
    train([order(runs, name, NUM_STEPS, "train.stop_at=7", "train.activation_checkpointing=true")], 2)
    assert checkpoints(runs / name)[-1].is_dir()
    train([order(runs, name, NUM_STEPS, "train.accumulation=2")])
    assert distance(state(alone / name), state(runs / name)) < 1e-4


@pytest.mark.parametrize(("size", "accumulation"), [(1, 1), (2, 1), (1, 4), (3, 2), (6, 2)])
def test_shares_are_all_of_the_batch_once(size: int, accumulation: int) -> None:
    executions = [
        ParallelConfig(dist_context=DistContext(rank=rank, world_size=size), accumulation=accumulation)
        for rank in range(size)
    ]
    shares = [parallel.shares(12) for parallel in executions]
    assert all(len(own) == accumulation for own in shares)
    assert list(chain.from_iterable(chain.from_iterable(shares))) == list(range(12))


@pytest.mark.parametrize("size", [1, 2, 4])
def test_samples_at_once_give_the_same_batch_on_any_number_of_processes(size: int) -> None:
    shares = [
        ParallelConfig(dist_context=DistContext(rank=rank, world_size=size), samples_at_once=2).shares(8)
        for rank in range(size)
    ]
    assert all(len(part) == 2 for own in shares for part in own)
    assert list(chain.from_iterable(chain.from_iterable(shares))) == list(range(8))
    told = ParallelConfig(dist_context=DistContext(world_size=size), samples_at_once=2).division(8)
    assert told == f"a batch of 8 samples: {size} processes x {4 // size} parts x 2 samples"
    with pytest.raises(ValueError, match="3 samples at once"):
        ParallelConfig(samples_at_once=3).shares(8)


def test_a_batch_that_cannot_be_shared_out_is_refused() -> None:
    with pytest.raises(ValueError, match="a batch of 10 cannot be divided among 2 processes in 2 parts"):
        ParallelConfig(dist_context=DistContext(world_size=2), accumulation=2).shares(10)


def test_a_gradient_is_the_mean_over_parts_and_the_loss_too() -> None:
    """In numbers: parts 2 w and 6 w give a gradient of 4 and a loss of 4 w, not their sum, nor the last."""
    weight = torch.tensor(3.0, requires_grad=True)
    parts = ParallelConfig(samples_at_once=1)
    seen: list[list[int]] = []

    def loss_of(samples: range) -> Tensor:
        seen.append(list(samples))
        return weight * (2.0, 6.0)[samples.start]

    assert parts.backward(2, loss_of, "test's", 5) == 12.0
    assert weight.grad is not None and weight.grad.item() == 4.0
    assert seen == [[0], [1]]
    with pytest.raises(FloatingPointError, match="the test's loss is nan at step 5"):
        parts.backward(2, lambda _: weight * float("nan"), "test's", 5)


@pytest.mark.parametrize(("size", "rank", "expected"), [(2, 0, [0, 1, 2]), (2, 1, [3, 4, 5]), (3, 2, [4, 5])])
def test_a_process_takes_the_samples_of_its_rank(size: int, rank: int, expected: list[int]) -> None:
    (own,) = ParallelConfig(dist_context=DistContext(rank=rank, world_size=size)).shares(6)
    assert list(own) == expected
