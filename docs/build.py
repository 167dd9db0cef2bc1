"""Build the site: docs/_build/html.

The pages are the notebooks with the outputs that are stored in them.

    python docs/build.py

nbdev processes each notebook (hidden cells go, show_doc cells leave only their result); its own
`nbdev_docs` would then call Quarto, which this project does not need: Sphinx with MyST-NB renders
the result. Warnings are errors.
"""

import json
import shutil
import sys
from pathlib import Path

from api import reference_pages
from course import parts, source, subtitle, title
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
    module = (
        text.split("#| default_exp ")[1].split("\n")[0].strip()
        if "#| default_exp " in text
        else None
    )
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
    return json.loads(json.dumps(nb)), raw["cells"], module


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


def page(path: Path) -> str | None:
    """Write the page of one notebook into docs/_pages; return the name of its
    module, if it has one.
    """
    nb, written, module = process(path)
    links = [f'<a href="_static/notebooks/{path.name}" download>notebook</a>']
    if module:
        links.append(
            f'<a href="module_{module}.html">talker_t2av/{module.replace(".", "/")}.py</a>'
        )
    head = (
        f'# {title(written)}\n\n<p class="lead">{subtitle(written)}</p>\n\n<p '
        f'class="links">{" · ".join(links)}</p>'
    )
    cells = [{"cell_type": "markdown", "id": "title", "metadata": {}, "source": head}]
    for cell in nb["cells"]:
        if (
            cell["cell_type"] == "raw" or "source" not in cell
        ):  # the front matter that nbdev made of the title
            continue
        if cell["cell_type"] == "code" and "#| output: asis" in "".join(
            cell["source"]
        ):  # show_doc: the result without its call
            cell["metadata"]["tags"] = ["remove-input"]
        if cell["cell_type"] == "code":
            cell["outputs"] = [kept for output in cell["outputs"] if (kept := still(output))]
        cells.append({key: value for key, value in cell.items() if not key.endswith("_")})
    nb = {
        "cells": cells,
        "metadata": {
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    (PAGES / path.name).write_text(json.dumps(nb), encoding="utf-8")
    return module


def module_page(module: str) -> None:
    """A page with the source of one module, so that it is a click away and the search finds it."""
    file = f"talker_t2av/{module.replace('.', '/')}.py"
    text = (
        f"---\norphan: true\n---\n# `{file}`\n\nExported from the notebook; the same cells, "
        f"nothing else.\n\n```{{literalinclude}} ../../{file}\n:language: python\n:linenos:\n```\n"
    )
    (PAGES / f"module_{module}.md").write_text(text, encoding="utf-8")


def contents(names: list[str], reference: list[str]) -> str:
    """The hidden tables of contents of the start page, one for each part that has a notebook by
    now, and one for the reference.
    """
    trees = parts([name for name in names if name != "index"]) | {"Reference": reference}
    return "\n\n".join(
        "```{toctree}\n:hidden:\n:caption: " + part + "\n" + "\n".join(found) + "\n```"
        for part, found in trees.items()
    )


def main() -> int:
    for folder in (PAGES, STATIC, HTML):
        shutil.rmtree(folder, ignore_errors=True)
    PAGES.mkdir()
    STATIC.mkdir(parents=True)
    notebooks = sorted((ROOT / "nbs").glob("*.ipynb"))
    get_config(path=ROOT)
    modules = {module: path.name for path in notebooks if (module := page(path))}
    for module in modules:
        module_page(module)
    reference = reference_pages(modules)
    for name, text in reference.items():
        (PAGES / f"{name}.md").write_text(text, encoding="utf-8")
    shutil.copytree(ROOT / "nbs", STATIC / "notebooks", ignore=shutil.ignore_patterns(".*", "_*"))
    for name in ("book.css", "favicon.svg"):
        shutil.copy(DOCS / name, STATIC)
    start = json.loads((PAGES / "index.ipynb").read_text(encoding="utf-8"))
    start["cells"].append(
        {
            "cell_type": "markdown",
            "id": "contents",
            "metadata": {},
            "source": contents([path.stem for path in notebooks], list(reference)),
        }
    )
    (PAGES / "index.ipynb").write_text(json.dumps(start), encoding="utf-8")
    code = sphinx_build(
        [
            "-q",
            "-W",
            "--keep-going",
            "-c",
            str(DOCS),
            "-d",
            str(DOCS / "_build" / "doctrees"),
            "-b",
            "html",
            str(PAGES),
            str(HTML),
        ]
    )
    print(
        f"site: {HTML.relative_to(ROOT)}/index.html"
        if code == 0
        else "the site has warnings (above); they count as errors"
    )
    return code


if __name__ == "__main__":
    sys.exit(main())
