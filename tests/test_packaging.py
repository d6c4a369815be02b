"""What a wheel and a source distribution hold, and how large they are."""

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.plugin.interface import BuilderInterface
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[1]
GOLDENS = ROOT / "tests" / "assets" / "goldens"
BESIDE_THE_CODE = {
    "shotstream/py.typed",
    "shotstream/film/fonts/DejaVuSans.ttf",
    "shotstream/stories/fox-and-owl.yaml",
    "shotstream/studio/web/index.html",
    "shotstream/studio/web/js/main.js",
    "shotstream/theatre/bundle/codec.safetensors",
    "shotstream/theatre/bundle/config.json",
    "shotstream/theatre/bundle/dit.safetensors",
    "shotstream/theatre/bundle/text_encoder.safetensors",
}
FOR_TESTS = {
    "Makefile",
    "constraints.txt",
    ".ci/run",
    "scripts/check",
    "tests/conftest.py",
    "docs/STYLE.md",
    "examples/README.md",
}


def _files(builder: type[BuilderInterface]) -> dict[str, Path]:
    """The files of a distribution: their place in it, and where they are taken from."""
    return {file.distribution_path: Path(file.path) for file in builder(str(ROOT)).recurse_included_files()}


def _project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_wheel_holds_the_package_with_all_that_it_reads() -> None:
    files = _files(WheelBuilder)
    assert files.keys() >= BESIDE_THE_CODE
    assert all(name.startswith("shotstream/") for name in files)
    assert not [name for name in files if "__pycache__" in name or name.endswith(".pyc")]
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "shotstream").rglob("*.py")}
    assert modules <= files.keys()


@pytest.mark.goldens
def test_the_wheel_holds_the_goldens_where_verify_looks_for_them() -> None:
    inside = {name: path for name, path in _files(WheelBuilder).items() if "goldens" in name}
    files = [path for path in GOLDENS.rglob("*") if path.is_file()]
    assert inside == {f"shotstream/verify/goldens/{path.relative_to(GOLDENS)}": path for path in files}


def test_the_source_distribution_holds_package_and_tests_and_nothing_that_is_large() -> None:
    files = _files(SdistBuilder)
    assert files.keys() >= BESIDE_THE_CODE | FOR_TESTS
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("*.py")} <= files.keys()
    assert not [name for name in files if name.startswith(("resume/", "tests/assets/goldens/"))]
    # As they are; packed they are less (the slow test counts).
    assert sum(path.stat().st_size for path in files.values()) < 24e6


@pytest.mark.slow
@pytest.mark.goldens
def test_both_are_built_and_the_source_distribution_is_below_20_mb(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    [wheel], [source] = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    assert source.stat().st_size < 20e6
    assert wheel.stat().st_size < 36e6
    with tarfile.open(source) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert names >= BESIDE_THE_CODE | FOR_TESTS
    with zipfile.ZipFile(wheel) as file:
        assert set(file.namelist()) >= BESIDE_THE_CODE
        [metadata] = [file.read(name).decode() for name in file.namelist() if name.endswith("/METADATA")]
    assert "Classifier: Typing :: Typed" in metadata
    assert "Requires-Dist: torch<3,>=2.11" in metadata


def test_every_requirement_is_pinned_in_the_constraints() -> None:
    def plain(name: str) -> str:
        return re.sub(r"[-_.]+", "-", name).lower()

    project = _project()
    extras = project["optional-dependencies"]
    required = project["dependencies"]
    assert isinstance(required, list) and isinstance(extras, dict)
    names = {re.split(r"[\[<>=;]", line)[0] for line in sum(extras.values(), required)} - {"shotstream"}
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    assert {plain(name) for name in names} <= {plain(name) for name in pins}


def test_the_project_names_each_python_that_it_is_tested_with() -> None:
    classifiers = _project()["classifiers"]
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    versions = re.findall(r'"(3\.\d+)"', workflow)
    assert versions == ["3.11", "3.12"]
    assert isinstance(classifiers, list)
    assert [line.rpartition(" ")[2] for line in classifiers if re.search(r":: 3\.\d+$", line)] == versions


def test_what_the_dockerfile_copies_is_there_and_is_all_that_docker_is_given() -> None:
    copies = re.findall(r"^COPY (.+) \S+$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    copied = {name for names in copies for name in names.split()}
    assert all((ROOT / name).exists() for name in copied - {"tests/assets/goldens"})
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignore[1] == "*"
    assert {line.removeprefix("!") for line in ignore if line.startswith("!")} == copied
