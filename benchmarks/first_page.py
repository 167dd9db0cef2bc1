"""The code of nbs/0_start/00_first_talker.ipynb, run outside of Jupyter, with another seed or with
some of its lines changed."""

import json
import os
import re
from pathlib import Path

import matplotlib.pyplot as plt

NOTEBOOK = Path(__file__).resolve().parent.parent / "nbs" / "0_start" / "00_first_talker.ipynb"
LAST = "def watch("  # the cell with which the talker is complete
HISTORY = "history"  # only the cells that train the talker, and show how that went, have this word
COIN = "coin"  # and this one those that try a head alone

Edits = list[tuple[str, str]]  # lines of the page as they are, and what stands there instead


def code_of_the_page(edits: Edits = ()) -> list[str]:
    """The code cells that define and train the talker, without the book's map.

    Raises ValueError for lines to be changed that do not stand there exactly once.
    """
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    sources = [source for source in sources if "overview" not in source]
    last = next(place for place, source in enumerate(sources) if LAST in source)
    return edited(sources[: last + 1], edits)


def edited(sources: list[str], edits: Edits) -> list[str]:
    """The sources with some lines changed, one edit after the other.

    Raises ValueError for lines that do not stand there exactly once.
    """
    for before, after in edits:
        found = sum(source.count(before) for source in sources)
        if found != 1:
            raise ValueError(f"takes lines that stand on the page once, got {found} of {before!r}")
        sources = [source.replace(before, after) for source in sources]
    return sources


def defined(seed: int, training: bool = True, edits: Edits = ()) -> dict:  # the page's names
    """Run the page with another seed. It reads its data beside itself."""
    names: dict = {"__name__": "first_talker"}
    sources = code_of_the_page(edits)
    if not training:
        sources = [source for source in sources if HISTORY not in source and COIN not in source]
    before, figures = Path.cwd(), set(plt.get_fignums())  # of the caller
    os.chdir(NOTEBOOK.parent)
    try:
        with plt.style.context("default"):  # whatever the caller's pictures look like
            for source in sources:
                source = re.sub(r"^SEED = \d+", f"SEED = {seed}", source, flags=re.MULTILINE)
                exec(compile(source, NOTEBOOK.name, "exec"), names)
                for figure in set(plt.get_fignums()) - figures:
                    plt.close(figure)
    finally:
        os.chdir(before)
    return names
