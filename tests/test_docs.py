"""Documents that name code must name code that is there."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAPER_TO_CODE = (ROOT / "docs" / "paper_to_code.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"`((?:shotstream|experiments)/[\w/]+\.py)`", PAPER_TO_CODE)))
)
def test_every_file_of_paper_to_code_imports(path: str) -> None:
    module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
    assert Path(str(module.__file__)) == ROOT / path
    assert module.__doc__


def test_every_test_of_paper_to_code_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAPER_TO_CODE)
    assert len(named) >= 30
    for path, name in named:
        assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), f"{path}::{name}"


def test_every_row_of_paper_to_code_names_a_file_and_a_test() -> None:
    rows = [line for line in PAPER_TO_CODE.splitlines() if line.startswith("| ")][1:]
    assert all(re.search("`(shotstream|experiments)/", row) and "::" in row for row in rows)


DIFFERENCES = (ROOT / "docs" / "differences.md").read_text(encoding="utf-8")
DIFFERENCE_ROWS = [line for line in DIFFERENCES.splitlines() if re.match(r"\| \d+ \|", line)]


def test_every_difference_has_a_state_a_file_and_a_test() -> None:
    assert [int(row.split("|")[1]) for row in DIFFERENCE_ROWS] == list(range(1, len(DIFFERENCE_ROWS) + 1))
    for row in DIFFERENCE_ROWS:
        state, files, tests = (cell.strip() for cell in row.split("|")[4:7])
        assert state in ("repaired", "cannot arise", "kept", "not built yet"), row
        assert files.startswith("`shotstream/"), row
        assert "::" in tests or state == "not built yet", row


def test_every_file_and_test_of_the_differences_exists() -> None:
    files = re.findall(r"`(shotstream/[\w/]+\.py)`", DIFFERENCES)
    tests = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", DIFFERENCES)
    assert len(files) >= len(DIFFERENCE_ROWS) and len(tests) >= 30
    assert [path for path in files if not (ROOT / path).is_file()] == []
    missing = [
        f"{path}::{name}"
        for path, name in tests
        if f"def {name}(" not in (ROOT / path).read_text(encoding="utf-8")
    ]
    assert missing == []


def test_what_makefile_demo_films_is_a_bundled_story() -> None:
    from shotstream.story import bundled_stories, read_story

    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    name = re.search(r"STORY \?= (\S+)", makefile)
    assert name is not None
    assert len(read_story(bundled_stories()[name[1]]).shots) == 5


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "docs").glob("*.md")))
def test_every_test_and_file_that_a_page_names_exists(name: str) -> None:
    """A test may be named by the end of its path, and `::name` alone is of the file named before it."""
    page = (ROOT / "docs" / name).read_text(encoding="utf-8")
    files: list[Path] = []
    missing: list[str] = []
    for path, test in re.findall(r"`((?:[\w/]*test_\w+\.py)?)(?:::(test_\w+))?`", page):
        if path:
            files = [file for file in (ROOT / "tests").rglob(Path(path).name) if file.match(path)]
        if (path or test) and not any(not test or f"def {test}(" in file.read_text() for file in files):
            missing.append(f"{path}::{test}")
    missing += [
        path
        for path in re.findall(r"`((?:shotstream|experiments|tests|scripts|docs|bench)/[\w/.-]+)`", page)
        if not (ROOT / path).exists()
    ]
    assert missing == []


RELIABILITY = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")


def test_every_rule_of_reliability_names_files_and_tests_that_exist() -> None:
    rows = [line for line in RELIABILITY.splitlines() if re.match(r"\| (?!rule|attack|-)", line)]
    rules = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows if ".py" in row]
    assert len(rules) >= 70
    for rule, enforced, held in rules:
        assert rule
        for path in re.findall(r"`([\w/]+\.\w+)`", enforced):
            whole = path if path.startswith(("shotstream/", "experiments/")) else f"shotstream/{path}"
            assert (ROOT / whole).is_file(), path
        named = re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", held)
        assert named, rule
        for path, name in named:
            assert not name or f"def {name}(" in (ROOT / "tests" / path).read_text(encoding="utf-8"), (
                f"{path}::{name}"
            )
