"""The course has a shape: every notebook says what to read first and what one should now be able
to explain; nothing on the main path needs a side room; one legend serves all axes.
"""

import copy
import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs"))

import api  # noqa: E402
import course  # noqa: E402

BOOKS = course.notebooks()
INDEX = json.loads((course.NBS / "index.ipynb").read_text(encoding="utf-8"))
TABLE = json.loads(course.TABLE.read_text(encoding="utf-8"))
TITLES = {name: course.title(nb["cells"]) for name, nb in BOOKS.items()}
WORKED = [name for name in BOOKS if name not in course.REFERENCE]
PATHS = course.paths(TABLE, list(BOOKS))


def test_the_table_is_sound():
    """An entry for each notebook; nobody needs what comes later, nor each other in a circle."""
    course.check_table(TABLE, WORKED)


@pytest.mark.parametrize("name", BOOKS)
def test_notebook_has_its_course_cells(name):
    """What to read first, time, what one can explain, links back and forth: as docs/course.py
    would write them today.
    """
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
    cells = INDEX["cells"]
    assert sum(course.source(cell).startswith(course.CONTENTS) for cell in cells) == 1
    assert [course.source(cell) for cell in cells] == [
        course.source(cell) for cell in course.with_contents(cells, BOOKS, TABLE)
    ], "run: python docs/course.py"
    assert not [name for name, nb in BOOKS.items() if not course.subtitle(nb["cells"])], (
        "a notebook begins with # title and > one line"
    )


def links_of(name: str) -> set[str]:
    """The notebooks to which one notebook's cells link."""
    folder = name.rpartition("/")[0]
    cells = BOOKS[name]["cells"]
    text = "\n".join(course.source(cell) for cell in cells if cell["cell_type"] == "markdown")
    found = re.findall(r"\]\(([^)#\s]+)\.ipynb[)#]", text)
    return {course.posixpath.normpath(f"{folder}/{link}") for link in found}


@pytest.mark.parametrize("title", PATHS)
def test_a_way_to_read_holds_what_it_needs(title):
    """Nothing on a way through the book needs a notebook that does not stand before it there,
    and every side room that it mentions is linked.
    """
    chosen = PATHS[title][1]
    assert len(chosen) >= 2
    for place, name in enumerate(chosen):
        entry = TABLE[name]
        numbered = not name.startswith(course.WORKSHOP)
        before = [
            other
            for other in chosen[:place] + [name for name in chosen if name.startswith("workshop")]
        ]
        lost = set(entry["needs"]) - set(before) if numbered else set(entry["needs"]) - set(chosen)
        assert not lost, f"{name} needs {lost}, which does not stand before it in {title!r}"
        assert set(entry.get("side", [])) <= links_of(name), f"{name}: a side room without a link"


def test_the_main_path_is_about_a_dozen_notebooks():
    """It begins at the start, crosses the parts in their order and ends with the evaluation."""
    path = course.main_path(TABLE, list(BOOKS))
    assert 10 <= len(path) <= 16
    folders = list(dict.fromkeys(name.split("/")[0] for name in path))
    assert folders == sorted(folders) and folders[0] == "0_start"
    assert {"1_world", "2_codecs", "3_model", "4_training", "5_inference", "6_evaluation"} <= set(
        folders
    )
    text = "".join(course.source(cell) for cell in INDEX["cells"])
    assert all(f"| {course.MAIN} | [{TITLES[name]}]({name}.ipynb)" in text for name in path)


def test_links_lead_to_notebooks():
    """Every link from a notebook or the index to a notebook finds one."""
    places = set(BOOKS) | {"index"}
    lost = {name: gone for name in BOOKS if (gone := links_of(name) - places)}
    text = "".join(course.source(cell) for cell in INDEX["cells"])
    lost["index"] = set(re.findall(r"\]\(([^)#\s]+)\.ipynb[)#]", text)) - places
    assert not {name: gone for name, gone in lost.items() if gone}


def test_links_say_the_number_of_their_notebook():
    """[3.5](...) leads to the notebook that is called 3.5."""
    wrong = []
    for name, cells in [*((n, nb["cells"]) for n, nb in BOOKS.items()), ("index", INDEX["cells"])]:
        text = "\n".join(course.source(cell) for cell in cells)
        for number, link in re.findall(r"\[([\dW]\.\d+)\]\(([^)#\s]+)\.ipynb[)#]", text):
            place = course.posixpath.normpath(f"{name.rpartition('/')[0]}/{link}")
            if place in BOOKS and course.label(place) != number:
                wrong.append(f"{name}: [{number}] leads to {place}")
    assert not wrong, "\n".join(wrong)


def test_titles_begin_with_their_number():
    """Links call a notebook by the number in its title: 1_world/01_voice is "1.1. ..."."""
    assert not {
        name: title
        for name, title in TITLES.items()
        if not title.startswith(f"{course.label(name)}. ")
    }


def test_labels():
    assert course.label("3_model/05_flow") == "3.5"
    assert course.label("3_model/10_talker") == "3.10"
    assert course.label("workshop/08_glossary") == "W.8"


def test_links_between_folders():
    assert course.short("1_world/01_voice", "3_model/05_flow") == "[1.1](../1_world/01_voice.ipynb)"
    assert course.short("1_world/01_voice", "1_world/02_face") == "[1.1](01_voice.ipynb)"
    assert course.short("1_world/01_voice", "index") == "[1.1](1_world/01_voice.ipynb)"
    assert course.target("index", "1_world/01_voice") == "../index.ipynb"


def toy(*sources):
    return [
        {"cell_type": "code" if text.startswith("overview(") else "markdown", "source": [text]}
        for text in sources
    ]


TOY_TITLES = {"1_a/01_a": "1.1. A", "1_a/02_b": "1.2. B", "workshop/08_glossary": "W.8. Glossary"}
TOY_TABLE = {
    "1_a/01_a": {"main": True, "needs": [], "side": ["1_a/02_b"], "explain": ["why"]},
    "1_a/02_b": {"needs": ["1_a/01_a"], "explain": ["how"]},
}


def test_course_cells_find_their_places_and_writing_twice_changes_nothing():
    cells = toy("# 1.1. A", "overview()", "word " * 900, "## Exercises\n1. Why?")
    made = course.course_cells("1_a/01_a", cells, TOY_TITLES, TOY_TABLE)
    once = course.with_course(cells, made)
    assert [course.source(cell)[:16] for cell in once] == [
        "# 1.1. A",
        "overview()",
        "<!-- course: sta",
        "word word word w",
        "<!-- course: exp",
        "## Exercises\n1. ",
        "<!-- course: lin",
    ]
    start, explain, links = (course.source(once[place]) for place in (2, 4, 6))
    assert "about 5 minutes" in start and "[1.2](02_b.ipynb)" in start and "1 of 1" in start
    assert "- why" in explain
    assert "[1.2. B](02_b.ipynb) →" in links and "←" not in links
    assert course.with_course(course.own(once), made) == once


def test_reference_pages_have_links_only():
    cells = toy("# W.8. Glossary", "overview()")
    made = course.course_cells("workshop/08_glossary", cells, TOY_TITLES, TOY_TABLE)
    assert list(made) == [course.LINKS]
    assert "← [1.2. B](../1_a/02_b.ipynb)" in made[course.LINKS]


def test_contents_are_grouped_and_written_once():
    books = {
        "0_start/01_one": {"cells": toy("# 0.1. One\n\n> The first.")},
        "1_world/01_two": {"cells": toy("# 1.1. Two\n\n> The next.")},
        "workshop/08_glossary": {"cells": toy("# W.8. Words\n\n> Look up.")},
    }
    table = {"1_world/01_two": {"main": True}}
    text = course.contents(books, table)
    assert "| ● | [1.1. Two](1_world/01_two.ipynb) | The next. | 5 min |" in text
    assert text.index("0 · Start (0.1 h)") < text.index("1 · A world") < text.index("### Workshop")
    cells = course.with_contents(toy("# Index", course.CONTENTS, "end"), books, table)
    assert [course.source(cell) for cell in cells] == ["# Index", text, "end"]
    again = course.with_contents(cells, books, table)
    assert [course.source(cell) for cell in again] == ["# Index", text, "end"]
    with pytest.raises(ValueError, match="no part"):
        course.parts(["33_nowhere/01_one"])


GOOD = {
    "1_a/01_a": {"main": True, "needs": [], "explain": ["x"]},
    "1_a/02_b": {"needs": ["1_a/01_a", "workshop/01_w"], "explain": ["x"]},
    "workshop/01_w": {"needs": ["1_a/01_a"], "explain": ["x"]},
}


@pytest.mark.parametrize(
    "name, change, words",
    [
        ("1_a/01_a", None, "no entry"),
        ("1_a/01_a", {"explain": []}, "explain"),
        ("1_a/01_a", {"needs": ["1_a/02_b"]}, "earlier"),
        ("1_a/01_a", {"needs": ["1_a/07_z"]}, "do not exist"),
        ("1_a/02_b", {"side": ["1_a/07_z"]}, "do not exist"),
        ("1_a/02_b", {"main": True}, "side room"),
        ("workshop/01_w", {"needs": ["1_a/02_b"]}, "need each other"),
    ],
)
def test_a_bad_table_is_refused(name, change, words):
    names = list(GOOD)
    course.check_table(GOOD, names)
    table = copy.deepcopy(GOOD)
    if change is None:
        del table[name]
    else:
        table[name] |= change
    with pytest.raises(ValueError, match=words):
        course.check_table(table, names)


def test_one_legend_for_all_axes():
    """Every letter that the package uses for an axis is in the glossary."""
    rows = [
        line
        for cell in BOOKS[course.GLOSSARY]["cells"]
        for line in course.source(cell).split("\n")
        if line.startswith("| `")
    ]
    legend = {
        letter for row in rows for letter in re.findall(r"`([A-Za-z_]+)`", row.split("|")[1])
    } | {"d_a", "d_v", "d_s"}
    assert api.letters_of("x: Tensor,  # (B, Q, d_a)") == {"B", "Q", "d_a"}, "the search works"
    lost = {letter: homes for letter, homes in api.letter_homes().items() if letter not in legend}
    assert not lost, "say in the glossary what these letters count"
