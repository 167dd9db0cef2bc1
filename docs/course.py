"""The shape of the course, written into every notebook: what to read first, how long it takes,
what one can explain afterwards, where to go next.

    python docs/course.py            writes or renews these cells in nbs/
    python docs/course.py --check    says which notebooks it would change, and changes nothing

docs/course.json holds what somebody must decide: `needs` (notebooks to read first) and `explain`
(what a reader should now be able to explain).
Order, titles, links, times and the contents in the index are computed. The cells are ordinary
Markdown that starts with a hidden mark, so JupyterLab, GitHub and the site show them alike.
"""

import json
import re
import sys
from pathlib import Path

NBS = Path(__file__).resolve().parent.parent / "nbs"
TABLE = Path(__file__).resolve().parent / "course.json"
START, EXPLAIN, LINKS = (
    "<!-- course: start -->",
    "<!-- course: explain -->",
    "<!-- course: links -->",
)
MARKS = (START, EXPLAIN, LINKS)
CONTENTS = "<!-- course: contents -->"  # the index holds one such cell
PARTS = {  # title in the contents -> the leading characters of its notebooks' names
    "Before we start": ("00",),
    "Part 1 · A world that talks": ("01", "02", "03"),
    "Part 2 · Two aligned 25 Hz latents": ("04", "05", "06"),
    "Part 3 · The model": ("07", "08", "09", "10", "11", "12", "13"),
    "Part 4 · Make it talk": ("14", "15"),
    "Part 5 · Does it work?": ("16", "17", "18"),
    "Part 6 · The real size": ("19", "20"),
    "Tools": ("21",),
    "Appendix": ("9",),
}
# an estimate: technical prose, and code that is read rather than skimmed
WORDS_A_MINUTE, LINES_A_MINUTE = 180, 25
AFTERNOON = ("00a", "00b", "01a", "01b", "04a", "04b", "11")
WEEKEND = (
    *AFTERNOON,
    "00c",
    "00d",
    "07",
    "08",
    "09",
    "10",
    "12",
    "13a",
    "13b",
    "13c",
    "13d",
    "15a",
)
# title -> (what it is for, the leading characters of its notebooks' names; they hold all that they
# need)
PATHS = {
    "An afternoon": (
        "You want the idea: what speech is made of, what a latent is, and how flow matching draws "
        "a sample when many answers are right.",
        AFTERNOON,
    ),
    "A weekend": (
        "You want to build it: the afternoon, then the whole model from its first layer to the "
        "loop that generates.",
        WEEKEND,
    ),
    "A course": (
        "Everything, in order. [For teachers](91_teachers.ipynb) has a timetable, and "
        "says what to run live.",
        ("0", "1", "2"),
    ),
}


def source(cell: dict) -> str:
    return "".join(cell["source"])


def own(cells: list[dict]) -> list[dict]:
    """The cells that somebody wrote: without those of this program."""
    return [cell for cell in cells if not source(cell).startswith(MARKS)]


def title(cells: list[dict]) -> str:
    """The heading of the first cell: "1b. Voice: from text to phonemes and speech"."""
    return source(cells[0]).split("\n")[0].removeprefix("# ")


def subtitle(cells: list[dict]) -> str:
    """The line below the heading: what the notebook is about."""
    return source(cells[0]).partition("\n> ")[2].split("\n")[0]


def minutes(cells: list[dict]) -> int:
    """Estimated reading time, in steps of five minutes."""
    words = sum(len(source(cell).split()) for cell in cells if cell["cell_type"] == "markdown")
    lines = sum(
        bool(line.strip())
        for cell in cells
        if cell["cell_type"] == "code"
        for line in source(cell).split("\n")
    )
    return max(5, 5 * round((words / WORDS_A_MINUTE + lines / LINES_A_MINUTE) / 5))


def short(name: str, titles: dict[str, str]) -> str:
    """A link that names a notebook by its number: [1b](01b_voice.ipynb)."""
    return f"[{titles[name].split('. ')[0]}]({name}.ipynb)"


def course_cells(
    name: str, cells: list[dict], titles: dict[str, str], table: dict[str, dict]
) -> dict[str, str]:
    """Mark -> text of the cells that belong into one notebook."""
    order, entry = list(titles), table[name]
    place = order.index(name)
    before, after = (
        order[place - 1] if place else None,
        order[place + 1] if place + 1 < len(order) else None,
    )
    needs = ", ".join(short(need, titles) for need in entry["needs"] if need in titles)
    first = f"**Read first:** {needs}" if needs else "**Read first:** nothing"
    start = (
        f"{START}\n{first} · **Time:** about {minutes(cells)} minutes to read · **Words:** "
        "[glossary](90_glossary.ipynb)"
    )
    explain = f"{EXPLAIN}\n## You should now be able to explain\n\n" + "\n".join(
        f"- {line}" for line in entry["explain"]
    )
    links = [f"← [{titles[before]}]({before}.ipynb)"] if before else []
    links += ["[Contents](index.ipynb)"] + (
        [f"[{titles[after]}]({after}.ipynb) →"] if after else []
    )
    return {START: start, EXPLAIN: explain, LINKS: f"{LINKS}\n{' · '.join(links)}"}


def markdown_cell(mark: str, text: str) -> dict:
    return {
        "cell_type": "markdown",
        "id": "course-" + re.sub(r"\W", "", mark.split(":")[1]),
        "metadata": {},
        "source": text.splitlines(keepends=True),
    }


def with_course(cells: list[dict], made: dict[str, str]) -> list[dict]:
    """The notebook's own cells with the three others in their places: after the overview figure
    (or the title), before the exercises, at the end.
    """
    figure = next(
        (
            i
            for i, cell in enumerate(cells)
            if cell["cell_type"] == "code" and "overview(" in source(cell)
        ),
        0,
    )
    exercises = next(
        (
            i
            for i, cell in enumerate(cells)
            if cell["cell_type"] == "markdown" and re.search(r"^## Exercises", source(cell), re.M)
        ),
        len(cells),
    )
    new = {mark: markdown_cell(mark, text) for mark, text in made.items()}
    return [
        *cells[: figure + 1],
        new[START],
        *cells[figure + 1 : exercises],
        new[EXPLAIN],
        *cells[exercises:],
        new[LINKS],
    ]


def notebooks(pattern: str = "[0-9]*.ipynb") -> dict[str, dict]:
    """Name -> notebook, in reading order; all but the index."""
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(NBS.glob(pattern))
    }


def chapters() -> dict[str, dict]:
    """The notebooks with goals and exercises: without the appendix (names that start with 9),
    which has a shape of its own.
    """
    return notebooks("[0-8]*.ipynb")


def parts(names: list[str]) -> dict[str, list[str]]:
    """Part -> its notebooks, of the parts that have some.

    Raises ValueError for a notebook that no part takes.
    """
    if lost := [name for name in names if not name.startswith(sum(PARTS.values(), ()))]:
        raise ValueError(f"docs/course.py: no part in PARTS takes {', '.join(lost)}")
    return {
        part: found
        for part, starts in PARTS.items()
        if (found := [name for name in names if name.startswith(starts)])
    }


def paths(books: dict[str, dict]) -> list[str]:
    """The ways through the book, with links and hours."""
    titles, lines = {name: title(nb["cells"]) for name, nb in books.items()}, []
    for name, (purpose, starts) in PATHS.items():
        chosen = [book for book in books if book.startswith(starts)]
        hours = sum(minutes(own(books[book]["cells"])) for book in chosen) / 60
        listed = (
            " → ".join(short(book, titles) for book in chosen)
            if starts != PATHS["A course"][1]
            else f"all {len(chosen)} of them"
        )
        lines.append(f"- **{name}** ({hours:.0f} hours of reading). {purpose} {listed}")
    return lines


def contents(books: dict[str, dict]) -> str:
    """The cell of the index that says how to read, and lists all notebooks: title, what
    each is about, minutes.
    """
    lines = [CONTENTS, "## Three ways to read", "", *paths(books), "", "## Contents"]
    for part, names in parts(list(books)).items():
        times = [minutes(own(books[name]["cells"])) for name in names]
        lines += [
            "",
            f"### {part}" + ("" if part == "Appendix" else f" ({sum(times) / 60:.1f} h)"),
            "",
            "| notebook | in one line | read |",
            "|---|---|---|",
        ]
        lines += [
            (
                f"| [{title(books[name]['cells'])}]({name}.ipynb) | "
                f"{subtitle(books[name]['cells'])} | {time} min |"
            )
            for name, time in zip(names, times)
        ]
    return "\n".join(lines)


def with_contents(cells: list[dict], books: dict[str, dict]) -> list[dict]:
    """The cells of the index, with today's contents in the place of the old."""
    return [
        markdown_cell(CONTENTS, contents(books)) if source(cell).startswith(CONTENTS) else cell
        for cell in cells
    ]


def check_table(table: dict[str, dict], names: list[str]) -> None:
    """Raises ValueError for a chapter without an entry, one that says nothing, or one that
    needs what comes later.
    """
    if lost := [name for name in names if name not in table]:
        raise ValueError(f"docs/course.json has no entry for {', '.join(lost)}")
    for name in names:
        later = [need for need in table[name]["needs"] if need not in table or need >= name]
        if later or not table[name]["explain"]:
            raise ValueError(
                f"docs/course.json, {name}: "
                + (
                    f"needs {later}, which is not an earlier notebook"
                    if later
                    else "`explain` is empty"
                )
            )


def main(check: bool = False) -> int:
    table, books = json.loads(TABLE.read_text(encoding="utf-8")), chapters()
    check_table(table, list(books))
    titles = {name: title(nb["cells"]) for name, nb in books.items()}
    index = json.loads((NBS / "index.ipynb").read_text(encoding="utf-8"))
    fresh = {
        name: with_course(own(nb["cells"]), course_cells(name, own(nb["cells"]), titles, table))
        for name, nb in books.items()
    }
    fresh["index"] = with_contents(index["cells"], notebooks())
    stale = []
    for name, nb in (books | {"index": index}).items():
        if [source(cell) for cell in fresh[name]] != [source(cell) for cell in nb["cells"]]:
            stale.append(name)
            if not check:
                (NBS / f"{name}.ipynb").write_text(
                    json.dumps(nb | {"cells": fresh[name]}, indent=1, ensure_ascii=False) + "\n",
                    encoding="utf-8",
                )
    print(f"course: {'stale' if check else 'renewed'}: {', '.join(stale) or 'none'}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
