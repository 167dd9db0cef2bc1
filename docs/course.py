"""The shape of the course, written into every notebook: what to read first, how long it takes, what one can explain afterwards, where to go next.

    python docs/course.py            writes or renews these cells in nbs/
    python docs/course.py --check    says which notebooks it would change, and changes nothing

docs/course.json holds what somebody must decide: `needs` (notebooks to read first) and `explain` (what a reader should now be able to explain).
Order, titles, links and times are computed. The cells are ordinary Markdown that starts with a hidden mark, so JupyterLab, GitHub and the site show them alike.
"""

import json
import re
import sys
from pathlib import Path

NBS = Path(__file__).resolve().parent.parent / "nbs"
TABLE = Path(__file__).resolve().parent / "course.json"
START, EXPLAIN, LINKS = "<!-- course: start -->", "<!-- course: explain -->", "<!-- course: links -->"
MARKS = (START, EXPLAIN, LINKS)
WORDS_A_MINUTE, LINES_A_MINUTE = 180, 25  # an estimate: technical prose, and code that is read rather than skimmed


def source(cell: dict) -> str:
    return "".join(cell["source"])


def own(cells: list[dict]) -> list[dict]:
    """The cells that somebody wrote: without those of this program."""
    return [cell for cell in cells if not source(cell).startswith(MARKS)]


def title(cells: list[dict]) -> str:
    """The heading of the first cell: "1b. Voice: from text to phonemes and speech"."""
    return source(cells[0]).split("\n")[0].removeprefix("# ")


def minutes(cells: list[dict]) -> int:
    """Estimated reading time, in steps of five minutes."""
    words = sum(len(source(cell).split()) for cell in cells if cell["cell_type"] == "markdown")
    lines = sum(bool(line.strip()) for cell in cells if cell["cell_type"] == "code" for line in source(cell).split("\n"))
    return max(5, 5 * round((words / WORDS_A_MINUTE + lines / LINES_A_MINUTE) / 5))


def short(name: str, titles: dict[str, str]) -> str:
    """A link that names a notebook by its number: [1b](01b_voice.ipynb)."""
    return f"[{titles[name].split('. ')[0]}]({name}.ipynb)"


def course_cells(name: str, cells: list[dict], titles: dict[str, str], table: dict[str, dict]) -> dict[str, str]:
    """Mark -> text of the cells that belong into one notebook."""
    order, entry = list(titles), table[name]
    place = order.index(name)
    before, after = order[place - 1] if place else None, order[place + 1] if place + 1 < len(order) else None
    needs = ", ".join(short(need, titles) for need in entry["needs"] if need in titles)
    first = f"**Read first:** {needs}" if needs else "**Read first:** nothing"
    start = f"{START}\n{first} · **Time:** about {minutes(cells)} minutes to read · **Words:** [glossary](90_glossary.ipynb)"
    explain = f"{EXPLAIN}\n## You should now be able to explain\n\n" + "\n".join(f"- {line}" for line in entry["explain"])
    links = [f"← [{titles[before]}]({before}.ipynb)"] if before else []
    links += ["[Contents](index.ipynb)"] + ([f"[{titles[after]}]({after}.ipynb) →"] if after else [])
    return {START: start, EXPLAIN: explain, LINKS: f"{LINKS}\n{' · '.join(links)}"}


def markdown_cell(mark: str, text: str) -> dict:
    return {"cell_type": "markdown", "id": "course-" + re.sub(r"\W", "", mark.split(":")[1]), "metadata": {}, "source": text.splitlines(keepends=True)}


def with_course(cells: list[dict], made: dict[str, str]) -> list[dict]:
    """The notebook's own cells with the three others in their places: after the overview figure (or the title), before the exercises, at the end."""
    figure = next((i for i, cell in enumerate(cells) if cell["cell_type"] == "code" and "overview(" in source(cell)), 0)
    exercises = next((i for i, cell in enumerate(cells) if cell["cell_type"] == "markdown" and re.search(r"^## Exercises", source(cell), re.M)), len(cells))
    new = {mark: markdown_cell(mark, text) for mark, text in made.items()}
    return [*cells[: figure + 1], new[START], *cells[figure + 1 : exercises], new[EXPLAIN], *cells[exercises:], new[LINKS]]


def chapters() -> dict[str, dict]:
    """Name -> notebook, of all chapters in reading order; the index and the appendix (names that start with 9) have a shape of their own."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(NBS.glob("[0-8]*.ipynb"))}


def check_table(table: dict[str, dict], names: list[str]) -> None:
    """Raises ValueError for a chapter without an entry, one that says nothing, or one that needs what comes later."""
    if lost := [name for name in names if name not in table]:
        raise ValueError(f"docs/course.json has no entry for {', '.join(lost)}")
    for name in names:
        later = [need for need in table[name]["needs"] if need not in table or need >= name]
        if later or not table[name]["explain"]:
            raise ValueError(f"docs/course.json, {name}: " + (f"needs {later}, which is not an earlier notebook" if later else "`explain` is empty"))


def main(check: bool = False) -> int:
    table, books = json.loads(TABLE.read_text(encoding="utf-8")), chapters()
    check_table(table, list(books))
    titles, stale = {name: title(nb["cells"]) for name, nb in books.items()}, []
    for name, nb in books.items():
        cells = own(nb["cells"])
        fresh = with_course(cells, course_cells(name, cells, titles, table))
        if [source(cell) for cell in fresh] != [source(cell) for cell in nb["cells"]]:
            stale.append(name)
            if not check:
                path = NBS / f"{name}.ipynb"
                path.write_text(json.dumps(nb | {"cells": fresh}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"course: {'stale' if check else 'renewed'}: {', '.join(stale) or 'none'}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
