"""The documentation site: its pages are those of the repository, and links between them lead somewhere."""

import importlib.util
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
GOLDENS = "tests/assets/goldens"
PAGES = [page for folder in (".", "docs", "examples") for page in sorted((ROOT / folder).glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_relative_link_of_a_page_leads_to_a_file(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    files = [target.partition("#")[0] for target in targets if not target.startswith(("http", "#"))]
    missing = [file for file in files if not (page.parent / file).is_file()]
    # A source distribution leaves the goldens out.
    assert [file for file in missing if (ROOT / GOLDENS).is_dir() or not file.startswith(GOLDENS)] == []


def test_every_page_is_in_the_navigation_once() -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    named: list[str] = []
    for section in nav:
        for pages in section.values():
            named += (
                [pages] if isinstance(pages, str) else [page for entry in pages for page in entry.values()]
            )
    assert sorted(named) == sorted(page.relative_to(ROOT).as_posix() for page in PAGES)


def test_the_api_has_a_page_for_each_package_and_names_modules_that_are_there() -> None:
    pytest.importorskip("mkdocs")
    spec = importlib.util.spec_from_file_location("site_pages", ROOT / "scripts" / "site_pages.py")
    assert spec is not None and spec.loader is not None
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    pages = hook.api_pages()
    packages = {path.parent.name for path in (ROOT / "shotstream").glob("*/__init__.py")}
    assert pages.keys() == {"shotstream"} | packages - hook.NO_API
    modules = [name for page in pages.values() for name in re.findall(r"^::: (\S+)$", page, re.MULTILINE)]
    assert "shotstream.story" in modules and len(modules) == len(set(modules)) > 100


def test_the_guide_for_contributors_names_files_and_code_that_are_there() -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    paths = [ROOT / name for name in re.findall(r"`((?:shotstream|tests)/[\w/]+\.py)`", guide)]
    assert [path for path in paths if not path.is_file()] == []
    code = "\n".join(path.read_text(encoding="utf-8") for path in paths)
    for name in (
        "CASES",
        "Recipe",
        "Stage",
        "DataSource",
        "RECIPES",
        "POLICIES",
        "ContextPolicy",
        "KINDS",
        "_BUILDERS",
        "Axis",
    ):
        assert f"`{name}`" in guide or f"`{name}(" in guide, name
        assert re.search(rf"^(class )?{name}\b", code, re.MULTILINE), name
    for name in ("check", "judge_film", "chance_levels"):
        assert f"`{name}`" in guide and f"def {name}(" in code, name
