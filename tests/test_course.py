"""The course has a shape: every chapter says what to read first and what one should now be able
to explain; one legend serves all axes.
"""

import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs"))

import course  # noqa: E402

BOOKS = course.chapters()
TABLE = json.loads(course.TABLE.read_text(encoding="utf-8"))
TITLES = {name: course.title(nb["cells"]) for name, nb in BOOKS.items()}


@pytest.mark.parametrize("name", BOOKS)
def test_chapter_has_its_course_cells(name):
    """What to read first, time, what one can explain, links back and forth: as docs/course.py
    would write them today.
    """
    course.check_table(TABLE, [name])
    cells = BOOKS[name]["cells"]
    mine = course.own(cells)
    fresh = course.with_course(mine, course.course_cells(name, mine, TITLES, TABLE))
    assert [course.source(cell) for cell in cells] == [course.source(cell) for cell in fresh], (
        "run: python docs/course.py"
    )


def test_index_lists_every_notebook():
    """Ways to read and contents, as docs/course.py would write them today; each notebook has a
    line that says what it is about.
    """
    books = course.notebooks()
    cells = json.loads((course.NBS / "index.ipynb").read_text(encoding="utf-8"))["cells"]
    assert sum(course.source(cell).startswith(course.CONTENTS) for cell in cells) == 1
    assert [course.source(cell) for cell in cells] == [
        course.source(cell) for cell in course.with_contents(cells, books)
    ], "run: python docs/course.py"
    assert not [name for name, nb in books.items() if not course.subtitle(nb["cells"])], (
        "a notebook begins with # title and > one line"
    )


@pytest.mark.parametrize("name", course.PATHS)
def test_way_to_read_holds_what_it_needs(name):
    """Nothing on a way through the book leans on a notebook that is not on it."""
    starts = course.PATHS[name][1]
    chosen = [book for book in BOOKS if book.startswith(starts)]
    assert all(any(book.startswith(start) for book in chosen) for start in starts)
    assert not {book: lost for book in chosen if (lost := set(TABLE[book]["needs"]) - set(chosen))}


def test_titles_begin_with_their_number():
    """Links call a notebook by the number in its title: 01b_voice is "1b. ..."."""
    wrong = {
        name: title
        for name, title in TITLES.items()
        if title.split(". ")[0] != name.split("_")[0].lstrip("0")
        and not (name.startswith("00") and title.startswith(f"0{name[2]}. "))
    }
    assert not wrong


def toy(*sources):
    return [
        {"cell_type": "code" if text.startswith("overview(") else "markdown", "source": [text]}
        for text in sources
    ]


def test_course_cells_find_their_places_and_writing_twice_changes_nothing():
    cells = toy("# 1a. A", "overview()", "word " * 900, "## Exercises\n1. Why?")
    made = course.course_cells(
        "a", cells, {"a": "1a. A", "b": "1b. B"}, {"a": {"needs": [], "explain": ["why"]}}
    )
    once = course.with_course(cells, made)
    assert [course.source(cell)[:16] for cell in once] == [
        "# 1a. A",
        "overview()",
        "<!-- course: sta",
        "word word word w",
        "<!-- course: exp",
        "## Exercises\n1. ",
        "<!-- course: lin",
    ]
    assert (
        "about 5 minutes" in course.source(once[2])
        and "- why" in course.source(once[4])
        and "[1b. B](b.ipynb) →" in course.source(once[6])
        and "←" not in course.source(once[6])
    )
    assert course.with_course(course.own(once), made) == once


def test_contents_are_grouped_and_written_once():
    books = {
        "00a_one": {"cells": toy("# 0a. One\n\n> The first.")},
        "01a_two": {"cells": toy("# 1a. Two\n\n> The next.")},
        "90_words": {"cells": toy("# Words\n\n> Look up.")},
    }
    text = course.contents(books)
    assert "| [1a. Two](01a_two.ipynb) | The next. | 5 min |" in text and text.index(
        "Before we start (0.1 h)"
    ) < text.index("Part 1") < text.index("### Appendix\n")
    cells = course.with_contents(toy("# Index", course.CONTENTS, "end"), books)
    assert (
        [course.source(cell) for cell in cells]
        == ["# Index", text, "end"]
        == [course.source(cell) for cell in course.with_contents(cells, books)]
    )
    with pytest.raises(ValueError, match="no part"):
        course.parts(["33_nowhere"])


@pytest.mark.parametrize(
    "table, words",
    [
        ({}, "no entry"),
        (
            {"b": {"needs": ["c"], "explain": ["x"]}, "c": {"needs": [], "explain": ["x"]}},
            "earlier",
        ),
        ({"b": {"needs": [], "explain": []}}, "explain"),
    ],
)
def test_a_bad_table_is_refused(table, words):
    with pytest.raises(ValueError, match=words):
        course.check_table(table, ["b"])


LETTER = re.compile(r"(?<![A-Za-z_'])([A-Z](?:_kv)?|d(?:_[a-z])?|[hw])(?![A-Za-z_'(])")


def letters_of(text: str) -> set[str]:
    """The letters of all shapes, "(B, N, d)", in comments and docstrings of some source."""
    found = set()
    for line in text.split("\n"):
        notes = [line.partition("#")[2]] + re.findall(r'"([^"]*)"', line)
        for inside in re.findall(r"\(([^()]*,[^()]*)\)", " ".join(notes)):
            parts = [part.strip() for part in inside.split(",") if part.strip()]
            if all(re.fullmatch(r"[\w .*/+'\-]{1,12}", part) for part in parts) and any(
                re.fullmatch(r"[A-Z]|\d+", part) for part in parts
            ):
                found |= {letter for part in parts for letter in LETTER.findall(part)}
    return found


def test_one_legend_for_all_axes():
    """Every letter that the package uses for an axis is in the glossary."""
    glossary = json.loads((course.NBS / "90_glossary.ipynb").read_text(encoding="utf-8"))
    rows = [
        line
        for cell in glossary["cells"]
        for line in course.source(cell).split("\n")
        if line.startswith("| `")
    ]
    legend = {
        letter for row in rows for letter in re.findall(r"`([A-Za-z_]+)`", row.split("|")[1])
    } | {"d_a", "d_v", "d_s"}
    assert letters_of("x: Tensor,  # (B, Q, d_a)") == {"B", "Q", "d_a"}, "the search works"
    used = {
        path.name: letters_of(path.read_text(encoding="utf-8")) - legend
        for path in (ROOT / "talker_t2av").rglob("*.py")
        if path.name != "_modidx.py"
    }
    assert not {name: lost for name, lost in used.items() if lost}, (
        "say in the glossary what these letters count"
    )
