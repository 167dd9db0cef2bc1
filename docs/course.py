"""The shape of the course, written into every notebook: what to read first, how long it takes,
what one can explain afterwards, where to go next.

    python docs/course.py            writes or renews these cells in nbs/
    python docs/course.py --check    says which notebooks it would change, and changes nothing

A notebook's name is its place: "3_model/05_flow" is the fifth of part 3 and is called 3.5; those
in workshop/ are called W.1, W.2, ... A part is a folder; parts come in the order of their names.

docs/course.json holds what somebody must decide, for each notebook:

    needs     notebooks that must be read first
    side      side rooms: background that may be looked up
    explain   what a reader should now be able to explain
    main      true: on the main path
    hour      true: in the hour that shows the idea

Order, titles, links, times and the contents in the index are computed. The cells are ordinary
Markdown that starts with a hidden mark, so JupyterLab, GitHub and the site show them alike.
"""

import json
import posixpath
import re
import sys
from pathlib import Path

NBS = Path(__file__).resolve().parent.parent / "nbs"
TABLE = Path(__file__).resolve().parent / "course.json"
START = "<!-- course: start -->"
EXPLAIN = "<!-- course: explain -->"
LINKS = "<!-- course: links -->"
MARKS = (START, EXPLAIN, LINKS)
CONTENTS = "<!-- course: contents -->"  # the index holds one such cell
WORKSHOP = "workshop"  # the last part: background that any notebook may need
PARTS = {  # folder -> title; a folder that does not exist is not mentioned anywhere
    "0_start": "Start",
    "1_world": "A world that talks",
    "2_codecs": "Codecs",
    "3_model": "The model",
    "4_training": "Training",
    "5_inference": "Generation",
    "6_evaluation": "Evaluation",
    "7_studies": "Studies",
    "8_released": "The released model",
    "9_play": "Playground",
    WORKSHOP: "Workshop",
}
# pages that are looked up, not worked through: no goals, no exercises
REFERENCE = ("workshop/08_glossary", "workshop/09_teachers", "workshop/10_responsible_use")
GLOSSARY, TEACHERS = REFERENCE[:2]
MAIN = "●"  # marks a notebook of the main path in contents, sidebar and map
# an estimate: technical prose, and code that is read rather than skimmed
WORDS_A_MINUTE, LINES_A_MINUTE = 180, 40


def source(cell: dict) -> str:
    return "".join(cell["source"])


def own(cells: list[dict]) -> list[dict]:
    """The cells that somebody wrote: without those of this program."""
    return [cell for cell in cells if not source(cell).startswith(MARKS)]


def title(cells: list[dict]) -> str:
    """The heading of the first cell: "1.1. Voice: from text to phonemes and speech"."""
    return source(cells[0]).split("\n")[0].removeprefix("# ")


def subtitle(cells: list[dict]) -> str:
    """The line below the heading: what the notebook is about."""
    return source(cells[0]).partition("\n> ")[2].split("\n")[0]


def label(name: str) -> str:
    """The number by which a notebook is called: "3_model/05_flow" is "3.5"."""
    folder, _, file = name.partition("/")
    part = "W" if folder == WORKSHOP else folder.split("_")[0]
    return f"{part}.{int(file.split('_')[0])}"


def short_title(cells: list[dict]) -> str:
    """The heading without number and without what follows a colon: "Voice"."""
    return title(cells).split(". ", 1)[-1].split(": ")[0]


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


def hours(books: dict[str, dict], names: list[str]) -> float:
    """Estimated reading time of some notebooks."""
    return sum(minutes(own(books[name]["cells"])) for name in names) / 60


def target(name: str, at: str) -> str:
    """The link from notebook `at` to notebook `name`, relative as Jupyter and Sphinx want it."""
    return posixpath.relpath(f"{name}.ipynb", posixpath.dirname(at) or ".")


def short(name: str, at: str) -> str:
    """A link that names a notebook by its number: [1.1](../1_world/01_voice.ipynb)."""
    return f"[{label(name)}]({target(name, at)})"


def main_path(table: dict[str, dict], names: list[str]) -> list[str]:
    """The notebooks of the main path, in order."""
    return [name for name in names if table.get(name, {}).get("main")]


def neighbours(name: str, order: list[str]) -> tuple[str | None, str | None]:
    """What stands before and after a notebook in some order."""
    place = order.index(name)
    before = order[place - 1] if place else None
    after = order[place + 1] if place + 1 < len(order) else None
    return before, after


def link(name: str | None, at: str, titles: dict[str, str]) -> str | None:
    """A link from notebook `at` that says the whole title; None for no notebook."""
    return f"[{titles[name]}]({target(name, at)})" if name else None


def arrows(before: str | None, middle: str, after: str | None) -> str:
    """One line of links: ← before · middle · after →."""
    shown = [middle]
    if before:
        shown.insert(0, f"← {before}")
    if after:
        shown.append(f"{after} →")
    return " · ".join(shown)


def start_cell(name: str, cells: list[dict], titles: dict[str, str], table: dict) -> str:
    """What to read first, side rooms, time, and where the main path runs."""
    entry, path = table[name], main_path(table, list(titles))
    needs = ", ".join(short(need, name) for need in entry["needs"] if need in titles)
    side = ", ".join(short(room, name) for room in entry.get("side", []) if room in titles)
    facts = [f"**Read first:** {needs or 'nothing'}"]
    if side:
        facts.append(f"**Side rooms:** {side}")
    facts.append(f"**Time:** about {minutes(cells)} minutes to read")
    facts.append(f"**Words:** [glossary]({target(GLOSSARY, name)})")
    if name in path:
        facts.append(f"{MAIN} **Main path:** {path.index(name) + 1} of {len(path)}")
    return f"{START}\n{' · '.join(facts)}"


def links_cell(name: str, titles: dict[str, str], table: dict) -> str:
    """Where to go next: along the main path, and to the neighbours in the order of the book."""
    lines, path = [LINKS], main_path(table, list(titles))
    if name in path:
        before, after = neighbours(name, path)
        middle = f"{MAIN} **Main path**"
        lines += [arrows(link(before, name, titles), middle, link(after, name, titles)), ""]
    before, after = neighbours(name, list(titles))
    middle = f"[Contents]({target('index', name)})"
    lines += [arrows(link(before, name, titles), middle, link(after, name, titles))]
    return "\n".join(lines)


def course_cells(
    name: str, cells: list[dict], titles: dict[str, str], table: dict[str, dict]
) -> dict[str, str]:
    """Mark -> text of the cells that belong into one notebook."""
    links = {LINKS: links_cell(name, titles, table)}
    if name in REFERENCE:
        return links
    lines = "\n".join(f"- {line}" for line in table[name]["explain"])
    return {
        START: start_cell(name, cells, titles, table),
        EXPLAIN: f"{EXPLAIN}\n## You should now be able to explain\n\n{lines}",
    } | links


def markdown_cell(mark: str, text: str) -> dict:
    return {
        "cell_type": "markdown",
        "id": "course-" + re.sub(r"\W", "", mark.split(":")[1]),
        "metadata": {},
        "source": text.splitlines(keepends=True),
    }


def with_course(cells: list[dict], made: dict[str, str]) -> list[dict]:
    """The notebook's own cells with those of this program in their places: after the overview
    figure (or the title), before the exercises, at the end.
    """
    figure, exercises = 0, len(cells)
    for i, cell in reversed(list(enumerate(cells))):
        if i < 5 and re.search(r"^overview\(", source(cell), re.M):
            figure = i
        if cell["cell_type"] == "markdown" and re.search(r"^## Exercises", source(cell), re.M):
            exercises = i
    new = {mark: [markdown_cell(mark, made[mark])] if mark in made else [] for mark in MARKS}
    return [
        *cells[: figure + 1],
        *new[START],
        *cells[figure + 1 : exercises],
        *new[EXPLAIN],
        *cells[exercises:],
        *new[LINKS],
    ]


def notebooks() -> dict[str, dict]:
    """Name ("3_model/05_flow") -> notebook, in reading order; all but the index."""
    return {
        path.relative_to(NBS).with_suffix("").as_posix(): json.loads(
            path.read_text(encoding="utf-8")
        )
        for path in sorted(NBS.glob("[!._]*/[0-9]*.ipynb"))
    }


def parts(names: list[str]) -> dict[str, list[str]]:
    """Folder -> its notebooks, in the order of PARTS.

    Raises ValueError for a notebook that no part takes.
    """
    if lost := [name for name in names if name.split("/")[0] not in PARTS]:
        raise ValueError(f"docs/course.py: no part in PARTS takes {', '.join(lost)}")
    found = {folder: [n for n in names if n.split("/")[0] == folder] for folder in PARTS}
    return {folder: inside for folder, inside in found.items() if inside}


def part_title(folder: str) -> str:
    """What a part is called: "3 · The model"."""
    number = folder.split("_")[0]
    return f"{number} · {PARTS[folder]}" if number.isdigit() else PARTS[folder]


def paths(table: dict[str, dict], names: list[str]) -> dict[str, tuple[str, list[str]]]:
    """Three ways to read: title -> (what it is for, its notebooks)."""
    return {
        "An hour": (
            "You want the idea: which decisions voice and face share, and how a sample is drawn "
            "when many answers are right.",
            [name for name in names if table.get(name, {}).get("hour")],
        ),
        f"Ten evenings: the main path {MAIN}": (
            "You want to understand the whole system: one notebook for each idea. Each needs "
            "only what stands before it here, and links to side rooms for the rest.",
            main_path(table, names),
        ),
        "All of it": (
            "You want to build it or to teach it: every notebook, in order. "
            f"[For teachers]({TEACHERS}.ipynb) says what to run live.",
            [name for name in names if name not in REFERENCE],
        ),
    }


def ways_to_read(books: dict[str, dict], table: dict[str, dict]) -> list[str]:
    """The ways through the book, with links and hours."""
    lines = []
    for name, (purpose, chosen) in paths(table, list(books)).items():
        time = hours(books, chosen)
        listed = " → ".join(short(book, "index") for book in chosen)
        if name == "All of it":
            listed = f"{len(chosen)} notebooks."
        lines.append(f"- **{name}** ({time:.0f} h of reading). {purpose} {listed}")
    return lines


def contents(books: dict[str, dict], table: dict[str, dict]) -> str:
    """The cell of the index that says how to read, and lists all notebooks: title, what
    each is about, minutes.
    """
    path = main_path(table, list(books))
    lines = [CONTENTS, "## Three ways to read", "", *ways_to_read(books, table), ""]
    lines += ["## Contents", "", f"{MAIN} marks the main path."]
    for folder, names in parts(list(books)).items():
        lines += ["", f"### {part_title(folder)} ({hours(books, names):.1f} h)", ""]
        lines += ["|  | notebook | in one line | read |", "|---|---|---|---|"]
        for name in names:
            cells = books[name]["cells"]
            mark = MAIN if name in path else ""
            lines.append(
                f"| {mark} | [{title(cells)}]({name}.ipynb) | {subtitle(cells)} | "
                f"{minutes(own(cells))} min |"
            )
    return "\n".join(lines)


def with_contents(cells: list[dict], books: dict[str, dict], table: dict) -> list[dict]:
    """The cells of the index, with today's contents in the place of the old."""
    new = markdown_cell(CONTENTS, contents(books, table))
    return [new if source(cell).startswith(CONTENTS) else cell for cell in cells]


def faults(name: str, table: dict[str, dict], names: list[str]) -> list[str]:
    """What is wrong with the entry of one notebook."""
    if name not in table:
        return ["has no entry"]
    entry, found = table[name], []
    if not entry["explain"]:
        found.append("`explain` is empty")
    for kind in ("needs", "side"):
        asked = entry.get(kind, [])
        if unknown := [need for need in asked if need not in names]:
            found.append(f"`{kind}` names {unknown}, which do not exist")
    late = [
        need
        for need in entry["needs"]
        if need in names and not need.startswith(WORKSHOP) and need >= name
    ]
    if late and not name.startswith(WORKSHOP):
        found.append(f"needs {late}, which is not an earlier notebook")
    if entry.get("main"):
        allowed = main_path(table, names)
        lost = [need for need in entry["needs"] if need not in allowed]
        if lost:
            found.append(f"is on the main path but needs {lost}; make that a side room")
    return found


def circle(table: dict[str, dict], names: list[str]) -> list[str]:
    """Notebooks that need each other, around in a circle; empty when there are none."""
    left = {name: {need for need in table[name]["needs"] if need in names} for name in names}
    while free := [name for name, needs in left.items() if not needs & set(left)]:
        for name in free:
            del left[name]
    return list(left)


def check_table(table: dict[str, dict], names: list[str]) -> None:
    """Raises ValueError for a notebook without an entry, one that says nothing, one that needs
    what comes later (all may need the workshop), one of the main path that needs what is not on
    it, and for notebooks that need each other.
    """
    wrong = {name: found for name in names if (found := faults(name, table, names))}
    if wrong:
        lines = [f"{name}: {'; '.join(found)}" for name, found in wrong.items()]
        raise ValueError("docs/course.json\n" + "\n".join(lines))
    if around := circle(table, names):
        raise ValueError(f"docs/course.json: these need each other: {', '.join(around)}")
    if gone := [name for name in table if name not in names]:
        raise ValueError(f"docs/course.json: entries of notebooks that are gone: {gone}")


def renewed(books: dict[str, dict], index: dict, table: dict) -> dict[str, list[dict]]:
    """Name -> cells as they should be, of all notebooks and the index."""
    titles = {name: title(nb["cells"]) for name, nb in books.items()}
    fresh = {}
    for name, nb in books.items():
        mine = own(nb["cells"])
        fresh[name] = with_course(mine, course_cells(name, mine, titles, table))
    fresh["index"] = with_contents(index["cells"], books, table)
    return fresh


def main(check: bool = False) -> int:
    table, books = json.loads(TABLE.read_text(encoding="utf-8")), notebooks()
    wrong = ""
    try:
        check_table(table, [name for name in books if name not in REFERENCE])
    except ValueError as error:
        wrong = str(error)
    for name in books:
        table.setdefault(name, {"needs": [], "explain": []})
    index = json.loads((NBS / "index.ipynb").read_text(encoding="utf-8"))
    fresh, stale = renewed(books, index, table), []
    for name, nb in (books | {"index": index}).items():
        if [source(cell) for cell in fresh[name]] != [source(cell) for cell in nb["cells"]]:
            stale.append(name)
            if not check:
                text = json.dumps(nb | {"cells": fresh[name]}, indent=1, ensure_ascii=False)
                temporary = NBS / f"{name}.ipynb.part"
                temporary.write_text(text + "\n", encoding="utf-8")
                temporary.replace(NBS / f"{name}.ipynb")
    print(f"course: {'stale' if check else 'renewed'}: {', '.join(stale) or 'none'}")
    if wrong:
        print(wrong)
    return int(bool(wrong) or check and bool(stale))


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
