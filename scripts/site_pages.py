"""The pages of the documentation site: files of the repository at their own places, and the API reference.

A hook of mkdocs (mkdocs.yml names it). mkdocs wants all pages in one folder; here they are where a reader of
the repository finds them, so that a relative link leads to the same page on the site and in the repository.
The API reference has one page for each package, made from the docstrings without importing anything.
"""

import ast
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "shotstream"
SHOWN = ("*.md", "docs/**/*", "examples/*", "bench/results/*.md", "tests/assets/goldens/README.md")
NO_API = {"cli", "migrations"}
"""Folders without an API: a command is described by its --help."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds the pages of the API to the navigation."""
    pages = [{name: f"api/{name}.md"} for name in api_pages()]
    assert config.nav is not None
    config.nav.append({"API": pages})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replaces the files of docs_dir by those of the repository, at their places, and adds the API."""
    kept = [file for file in files if file.src_dir != config.docs_dir]
    shown = sorted({path for pattern in SHOWN for path in ROOT.glob(pattern) if path.is_file()})
    pages = [
        File(path.relative_to(ROOT).as_posix(), str(ROOT), config.site_dir, config.use_directory_urls)
        for path in shown
    ]
    api = [File.generated(config, f"api/{name}.md", content=text) for name, text in api_pages().items()]
    return Files([*kept, *pages, *api])


def api_pages() -> dict[str, str]:
    """The Markdown of each page: the public names first, then the modules of one package after the other."""
    single = [path for path in sorted(PACKAGE.glob("*.py")) if path.stem != "__init__"]
    folders = [
        path.parent for path in sorted(PACKAGE.glob("*/__init__.py")) if path.parent.name not in NO_API
    ]
    pages = {
        "shotstream": "# shotstream\n\n" + _entry(PACKAGE / "__init__.py") + "".join(map(_entry, single))
    }
    for folder in folders:
        modules = sorted(path for path in folder.rglob("*.py") if not NO_API & set(path.parts))
        pages[folder.name] = f"# shotstream.{folder.name}\n\n" + "".join(map(_entry, modules))
    return pages


def _entry(path: Path) -> str:
    """The place of one module on its page; nothing for one without a docstring."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if ast.get_docstring(tree) is None:
        return ""
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    defines = any(isinstance(node, ast.ClassDef | ast.FunctionDef) for node in tree.body)
    # What a package only passes on is shown where it is defined.
    options = "" if defines else "    options:\n      members: false\n"
    return f"::: {name}\n{options}\n"
