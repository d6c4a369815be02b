"""The attacks themselves: each finds what it is made to find, and the program holds against a few of each."""

import random
from pathlib import Path

import pytest

from tests.attacks.damage import DAMAGES, draw
from tests.attacks.files import Kind, attack_files, attack_kind, fault_of, same
from tests.attacks.tally import Tally, fault_of_message


def kind_of(read: object) -> Kind:
    def make(home: Path) -> Path:
        (home / "file").write_bytes(b"all is well " * 100)
        return home / "file"

    return Kind(name="text", make=make, read=read, refusals=(ValueError,), judge=same)  # type: ignore[arg-type]


def test_a_reader_that_trusts_what_it_reads_is_found(tmp_path: Path) -> None:
    tally = Tally(name="trusting")
    attack_kind(kind_of(Path.read_bytes), 20, tmp_path, random.Random(0), tally)
    assert (tally.tried, tally.clean, len(tally.broken)) == (20, 0, 20)
    assert "other content" in tally.broken[0]


def test_a_reader_that_fails_in_its_own_words_or_not_at_all_is_found(tmp_path: Path) -> None:
    def careless(_: Path) -> None:
        raise KeyError("shot1")

    def rude(_: Path) -> None:
        raise ValueError("'NoneType' object is not subscriptable")

    def polite(path: Path) -> None:
        raise ValueError(f"{path.name} is damaged; fetch it again")

    assert "KeyError" in str(fault_of(kind_of(careless), tmp_path, b""))
    assert "Python's words" in str(fault_of(kind_of(rude), tmp_path, b""))
    assert fault_of(kind_of(polite), tmp_path, b"") is None


@pytest.mark.parametrize("name", [name for name, *_ in DAMAGES])
def test_every_damage_changes_a_file(name: str) -> None:
    content = bytes(range(1, 256)) * 9
    damage = next(damage for other, damage, _ in DAMAGES if other == name)
    assert damage(content, random.Random(3)) != content


def test_damages_are_drawn_again_from_a_seed() -> None:
    first, second = random.Random(5), random.Random(5)
    assert [draw(first)[0] for _ in range(30)] == [draw(second)[0] for _ in range(30)]


@pytest.mark.parametrize("message", ["", "two\nlines", "x" * 700, "'NoneType' object is not iterable"])
def test_words_that_no_person_should_read_are_found(message: str) -> None:
    assert fault_of_message(message)
    assert fault_of_message("story.yaml: line 3: quote the caption") is None


@pytest.mark.slow
@pytest.mark.goldens
def test_every_kind_of_file_holds_against_a_few_damages(tmp_path: Path) -> None:
    rows = list(attack_files(8, tmp_path, random.Random(0)))
    assert len(rows) >= 15 and all(row.tried == 8 for row in rows)
    assert not [line for row in rows for line in row.broken]
