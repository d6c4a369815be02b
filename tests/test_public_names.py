"""What a person sees of the package: its public names, and its version wherever it is written."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import shotstream

ROOT = Path(__file__).parents[1]


def test_dir_shows_the_public_names_alone_and_each_is_there() -> None:
    assert dir(shotstream) == sorted(shotstream.__all__)
    assert {name for name in dir(shotstream) if getattr(shotstream, name) is None} == set()


def test_importing_the_package_or_listing_its_names_loads_no_torch() -> None:
    script = "import sys, shotstream; dir(shotstream); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0


def test_the_version_is_the_same_wherever_it_is_written() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)$", changelog, re.MULTILINE)
    assert newest is not None
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.*)$", citation, re.MULTILINE) == [shotstream.__version__]
    assert re.findall(r'^date-released: "(.*)"$', citation, re.MULTILINE) == [newest[2]]
    assert newest[1] == shotstream.__version__


def test_a_version_tag_of_this_commit_is_the_version() -> None:
    """Tags are `v` and the version; no tag is well too."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout")
    tags = subprocess.run(
        ["git", "tag", "--points-at", "HEAD", "v*"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()
    assert set(tags) <= {f"v{shotstream.__version__}"}
