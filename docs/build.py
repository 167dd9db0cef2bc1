"""Build the site: docs/_build/html.

The pages are the notebooks with the outputs that are stored in them.

    python docs/build.py

nbdev processes each notebook (hidden cells go, show_doc cells leave only their result); its own
`nbdev_docs` would then call Quarto, which this project does not need: Sphinx with MyST-NB renders
the result. Warnings are errors.
"""

import json
import re
import shutil
import sys
from pathlib import Path

import course
from api import reference_pages
from course import source, subtitle, title
from nbdev.config import get_config
from nbdev.frontmatter import FrontmatterProc
from nbdev.process import NBProcessor
from nbdev.processors import (
    clean_magics,
    clean_show_doc,
    filter_stream_,
    hide_,
    hide_line,
    populate_language,
    strip_ansi,
)
from sphinx.cmd.build import main as sphinx_build

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
PAGES, STATIC, HTML = DOCS / "_pages", DOCS / "_build" / "static", DOCS / "_build" / "html"
SLIDER = "▸ Controls: run this notebook (make lab) to move them."


def remove_hidden(cell):
    """Hidden cells and the line that names the module go; exported cells stay, for they are the
    book, and are marked as such.
    """
    directives = cell.directives_ or {}
    if directives.keys() & {"hide", "default_exp"}:
        del cell["source"]
    elif directives.keys() & {"export", "exports"}:
        cell.metadata["tags"] = ["exported"]


def process(path: Path) -> tuple[dict, list[dict], str | None]:
    """The notebook as a page, its cells as they were written, and the module that it
    exports (None if none).
    """
    raw = json.loads(path.read_text(encoding="utf-8"))
    text = "\n".join(source(cell) for cell in raw["cells"])
    exported = re.search(r"^#\| default_exp (\S+)", text, flags=re.M)
    procs = [
        FrontmatterProc,
        populate_language,
        strip_ansi,
        hide_line,
        filter_stream_,
        clean_show_doc,
        remove_hidden,
        clean_magics,
        hide_,
    ]
    nb = NBProcessor(path, procs=procs, process=True).nb
    return json.loads(json.dumps(nb)), raw["cells"], exported[1] if exported else None


def still(output: dict) -> dict | None:
    """A live widget has no still picture: say where sliders live, leave progress bars out,
    keep everything else.
    """
    data = output.get("data", {})
    if "application/vnd.jupyter.widget-view+json" not in data:
        return output
    return (
        output | {"data": {"text/plain": SLIDER}}
        if "interactive(" in "".join(data.get("text/plain", ""))
        else None
    )


def linked(output: dict) -> dict:
    """Links to notebooks in Markdown that a cell shows lead to their pages: Sphinx resolves those
    of the text only.
    """
    shown = output.get("data", {}).get("text/markdown")
    if shown is None:
        return output
    text = re.sub(r"(\]\([^)\s:]+)\.ipynb\b", r"\1.html", "".join(shown))
    return output | {"data": output["data"] | {"text/markdown": text}}


def head_of(name: str, cells: list[dict], module: str | None, on_main_path: bool) -> str:
    """Title, what it is about, and links to the notebook's file and to its module."""
    top = "../" * name.count("/")
    links = [f'<a href="{top}_static/notebooks/{name}.ipynb" download>notebook</a>']
    if module:
        file = f"talker_t2av/{module.replace('.', '/')}.py"
        links.append(f'<a href="{top}module_{module}.html">{file}</a>')
    if on_main_path:
        links.append(f"{course.MAIN} main path")
    return (
        f'# {title(cells)}\n\n<p class="lead">{subtitle(cells)}</p>\n\n'
        f'<p class="links">{" · ".join(links)}</p>'
    )


def shown_cells(nb: dict) -> list[dict]:
    """The cells of a processed notebook as the page shows them."""
    cells = []
    for cell in nb["cells"]:
        # raw: the front matter that nbdev made of the title
        if cell["cell_type"] == "raw" or "source" not in cell:
            continue
        if cell["cell_type"] == "code":
            if "#| output: asis" in "".join(
                cell["source"]
            ):  # show_doc: the result without its call
                cell["metadata"]["tags"] = ["remove-input"]
            kept = [still(output) for output in cell["outputs"]]
            cell["outputs"] = [linked(output) for output in kept if output]
        cells.append({key: value for key, value in cell.items() if not key.endswith("_")})
    return cells


def markdown(identity: str, text: str) -> dict:
    return {"cell_type": "markdown", "id": identity, "metadata": {}, "source": text}


def page(path: Path, main_path: list[str]) -> str | None:
    """Write the page of one notebook into docs/_pages, in the folder of its part; return the
    name of its module, if it has one.
    """
    name = path.relative_to(ROOT / "nbs").with_suffix("").as_posix()
    nb, written, module = process(path)
    head = markdown("title", head_of(name, written, module, name in main_path))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nb = {
        "cells": [head, *shown_cells(nb)],
        "metadata": {"kernelspec": kernel},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    target = PAGES / f"{name}.ipynb"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(nb), encoding="utf-8")
    return module


def module_page(module: str) -> None:
    """A page with the source of one module, so that it is a click away and the search finds it."""
    file = f"talker_t2av/{module.replace('.', '/')}.py"
    text = (
        f"---\norphan: true\n---\n# `{file}`\n\nExported from the notebook; the same cells, "
        f"nothing else.\n\n```{{literalinclude}} ../../{file}\n:language: python\n:linenos:\n```\n"
    )
    (PAGES / f"module_{module}.md").write_text(text, encoding="utf-8")


def toctree(entries: list[str], caption: str = "") -> str:
    """A hidden table of contents: what the sidebar shows."""
    head = f":caption: {caption}\n" if caption else ""
    return "```{toctree}\n:hidden:\n" + head + "\n".join(entries) + "\n```"


def part_page(folder: str, books: dict[str, dict], main_path: list[str]) -> None:
    """The page of one part: a line for each notebook. In the sidebar it opens and closes."""
    lines = [f"# {course.part_title(folder)}", "", "|  | notebook | in one line |", "|---|---|---|"]
    entries = []
    for name, nb in books.items():
        mark = course.MAIN if name in main_path else ""
        heading, file = title(nb["cells"]), name.split("/")[1]
        lines.append(f"| {mark} | [{heading}]({file}.ipynb) | {subtitle(nb['cells'])} |")
        entries.append(f"{mark} {heading.split(': ')[0]} <{file}>".lstrip())
    lines += ["", f"{course.MAIN} marks the main path.", "", toctree(entries), ""]
    (PAGES / folder / "index.md").write_text("\n".join(lines), encoding="utf-8")


def reference_index(pages: dict[str, str]) -> None:
    """The page above the reference pages."""
    lines = ["# Reference", "", "Every public name of the package, read from its source.", ""]
    lines += [
        f"- [{text.splitlines()[0].removeprefix('# ')}]({name}.md)" for name, text in pages.items()
    ]
    (PAGES / "reference.md").write_text("\n".join([*lines, "", toctree(list(pages)), ""]))


def start_page(folders: list[str]) -> None:
    """The index, with the table of contents of the whole site."""
    path = PAGES / "index.ipynb"
    start = json.loads(path.read_text(encoding="utf-8"))
    entries = [f"{folder}/index" for folder in folders] + ["reference"]
    start["cells"].append(markdown("contents", toctree(entries)))
    path.write_text(json.dumps(start), encoding="utf-8")


def write_pages() -> None:
    """All pages of the site as Sphinx wants them, in docs/_pages."""
    books = course.notebooks()
    table = json.loads(course.TABLE.read_text(encoding="utf-8"))
    main_path = course.main_path(table, list(books))
    get_config(path=ROOT)
    modules = {}
    for name in ["index", *books]:
        module = page(ROOT / "nbs" / f"{name}.ipynb", main_path)
        if module:
            modules[module] = f"{name}.ipynb"
    for module in modules:
        module_page(module)
    reference = reference_pages(modules)
    for name, text in reference.items():
        (PAGES / f"{name}.md").write_text(text, encoding="utf-8")
    reference_index(reference)
    folders = course.parts(list(books))
    for folder, names in folders.items():
        part_page(folder, {name: books[name] for name in names}, main_path)
    start_page(list(folders))


def main() -> int:
    for folder in (PAGES, STATIC, HTML):
        shutil.rmtree(folder, ignore_errors=True)
    PAGES.mkdir()
    STATIC.mkdir(parents=True)
    write_pages()
    shutil.copytree(ROOT / "nbs", STATIC / "notebooks", ignore=shutil.ignore_patterns(".*", "_*"))
    for name in ("book.css", "favicon.svg"):
        shutil.copy(DOCS / name, STATIC)
    words = ["-q", "-W", "--keep-going", "-j", "2", "-c", DOCS, "-d", DOCS / "_build" / "doctrees"]
    code = sphinx_build([str(word) for word in [*words, "-b", "html", PAGES, HTML]])
    if code == 0:
        print(f"site: {HTML.relative_to(ROOT)}/index.html")
    else:
        print("the site has warnings (above); they count as errors")
    return code


if __name__ == "__main__":
    sys.exit(main())
