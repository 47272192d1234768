"""MkDocs hooks: the repository becomes one site.

The README is the first page, each table of results is a page, and benchmarks/results/README.md lists them. What a page
links to outside of these comes along: programs as pages that show them, folders as lists, everything else as a file.
"""

import posixpath
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import metarl

ROOT = Path(__file__).resolve().parents[2]
_PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/results/README.md")
RESULTS = ROOT / "benchmarks/results"
# A link's target in Markdown, without its anchor; not an address, nor an anchor of the same page.
_TARGET = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds what lies outside of docs/."""
    for name, text in _written_pages().items():
        files.append(File.generated(config, name, content=text))
    summaries = sorted(RESULTS.glob("*/summary.md"))
    waiting = [*(ROOT / name for name in _PAGES), *sorted((ROOT / "docs").glob("*.md")), *summaries]
    seen = set(waiting)
    while waiting:
        path = waiting.pop(0)
        if path.parent != ROOT / "docs":
            files.append(_file(path, config))
        if path.suffix == ".md":
            linked = [(path.parent / target).resolve() for target in _TARGET.findall(_text(path))]
            found = [target for target in dict.fromkeys(linked) if target.exists() and target not in seen]
            seen.update(found)
            waiting.extend(found)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lets the links of a page lead to where the site has their targets."""
    origin = _origins.get(page.file.src_uri, ROOT / "docs" / page.file.src_uri)

    def moved(match: re.Match[str]) -> str:
        target = (origin.parent / match[1]).resolve()
        if not target.exists():
            return match[1]  # MkDocs says that it leads nowhere.
        return posixpath.relpath(_uri(target), posixpath.dirname(page.file.src_uri) or ".")

    return _TARGET.sub(moved, markdown)


_origins: dict[str, Path] = {}


def _uri(path: Path) -> str:
    """Where the site has a file or folder of the repository; also remembers where a page comes from."""
    if path.parent == ROOT / "docs":
        return path.name
    inside = path.relative_to(ROOT).as_posix()
    if path == ROOT / "README.md":
        uri = "index.md"
    elif path == RESULTS / "README.md":
        uri = "results/index.md"
    elif path.name == "summary.md" and path.parent.parent == RESULTS:
        uri = f"results/{path.parent.name}.md"
    elif path.is_dir() or path.suffix in (".py", ".xml"):
        uri = f"source/{inside}.md"
    elif path.suffix == ".md":
        uri = inside.lower()
    else:
        uri = f"files/{inside}"
    _origins[uri] = path
    return uri


def _file(path: Path, config: MkDocsConfig) -> File:
    uri, title = _uri(path), path.relative_to(ROOT).as_posix()
    if path.is_dir():
        names = sorted(f"- `{inside.name}`" for inside in path.iterdir() if not inside.name.startswith("__"))
        return File.generated(config, uri, content=f"# {title}\n\n" + "\n".join(names) + "\n")
    if uri.startswith("source/"):
        language = "xml" if path.suffix == ".xml" else "python"
        return File.generated(config, uri, content=f"# {title}\n\n````{language}\n{path.read_text()}````\n")
    if path.suffix == ".md":
        return File.generated(config, uri, content=_text(path))
    return File.generated(config, uri, abs_src_path=str(path))


def _text(path: Path) -> str:
    """A page of the repository; one of results gets its figures."""
    figures = [path.with_name(f"{name}.png") for name in ("adaptation", "training") if path.name == "summary.md"]
    return path.read_text() + "".join(f"\n![{file.stem}]({file.name})\n" for file in figures if file.exists())


def _written_pages() -> dict[str, str]:
    """Pages that no file of the repository holds: public names by docstrings."""
    # Functions, which are written small, come first.
    names = [
        f"## metarl.{name} {{ #{name} }}\n\n{_documented(name)}" for name in sorted(metarl.__all__, key=str.swapcase)
    ]
    return {"api.md": "# Python interface\n\n" + "\n\n".join(names) + "\n"}


def _documented(name: str) -> str:
    """Asks for the docstring of a public name; a constant shows its names, or its value."""
    value: Any = getattr(metarl, name)
    if isinstance(value, Mapping):
        return "By name: " + ", ".join(f"`{known}`" for known in value)
    if isinstance(value, str):
        return f"`{value}`"
    return f"::: {value.__module__}.{value.__qualname__}\n    options:\n      heading_level: 3\n"
