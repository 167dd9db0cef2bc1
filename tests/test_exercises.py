"""Exercises with code: blanks are blank, solutions are right, and typical mistakes are noticed.

A notebook's blanks are cells that begin with `#| exercise`; the cell after it begins with
`#| check`. Solutions lie in tests/solutions/, in a file named like the notebook.
"""

import ast
import importlib
import json
import re
import runpy
import sys
from pathlib import Path

import pytest

from talker_t2av.common.exercises import attempt

ROOT = Path(__file__).resolve().parent.parent
SOLUTIONS = Path(__file__).resolve().parent / "solutions"
sys.path.insert(0, str(ROOT / "docs"))

import course  # noqa: E402

BOOKS = course.notebooks()
TABLE = json.loads(course.TABLE.read_text(encoding="utf-8"))
MAIN = course.main_path(TABLE, list(BOOKS))
WITHOUT_BLANKS = ("0_start/01_map",)  # prose and a map: it computes nothing that could be left out


def code_of(name: str) -> list[str]:
    "The code cells of a notebook."
    return [course.source(cell) for cell in BOOKS[name]["cells"] if cell["cell_type"] == "code"]


def blanks(name: str) -> list[tuple[str, str, str]]:
    "Function, blank and check of each exercise in a notebook."
    cells = code_of(name)
    found = []
    for cell, following in zip(cells, [*cells[1:], ""]):
        if cell.startswith("#| exercise"):
            assert following.startswith("#| check"), f"{name}: a blank without a check"
            functions = [node for node in ast.parse(cell).body if isinstance(node, ast.FunctionDef)]
            assert len(functions) == 1, f"{name}: a blank is one function"
            found.append((functions[0].name, cell, following))
    return found


def exports(name: str) -> dict:
    "The names of a notebook's module: what it puts into the package."
    found = re.search(r"^#\| default_exp (\S+)", "\n".join(code_of(name)), re.MULTILINE)
    return vars(importlib.import_module(f"talker_t2av.{found[1]}")) if found else {}


def imports(name: str) -> str:
    "Those cells of a notebook that hold nothing but imports: a check may use them too."
    kinds = (ast.Import, ast.ImportFrom)
    trees = {cell: ast.parse(cell).body for cell in code_of(name) if not cell.startswith("%")}
    return "\n".join(cell for cell, body in trees.items() if all(type(n) in kinds for n in body))


EXERCISES = [(name, *blank) for name in BOOKS for blank in blanks(name)]
WITH_CODE = sorted({name for name, *_ in EXERCISES})


@pytest.fixture(scope="module")
def solutions() -> dict[str, dict]:
    return {name: runpy.run_path(str(SOLUTIONS / f"{name}.py")) for name in WITH_CODE}


@pytest.mark.parametrize(
    ("name", "function", "blank", "check"),
    EXERCISES,
    ids=[f"{course.label(name)} {function}" for name, function, *_ in EXERCISES],
)
def test_check_knows_blank_right_and_wrong(name, function, blank, check, solutions):
    made = []
    space = dict(exports(name))
    exec(imports(name), space)  # what the notebook only tries out stays out
    exec(blank, space)
    space["attempt"] = lambda checked, answer: made.append((checked, answer))
    exec(check, space)
    ((checked, answer),) = made
    assert answer is space[function]
    assert attempt(checked, answer) is None, "the blank must raise NotImplementedError"
    assert attempt(checked, solutions[name][function]) is True
    wrong = solutions[name]["WRONG"][function]
    assert wrong, "at least one typical mistake"
    for mistake in wrong:
        assert attempt(checked, mistake) is False, f"the check lets {mistake.__name__} through"


@pytest.mark.parametrize("name", MAIN)
def test_main_path_has_exercises_with_code(name):
    found = [function for function, *_ in blanks(name)]
    if name in WITHOUT_BLANKS:
        assert not found, "has blanks now: take it off the list"
    else:
        assert len(found) >= 2, f"takes two blanks or more, has {found}"


def test_no_solution_without_its_blank(solutions):
    files = {
        path.relative_to(SOLUTIONS).with_suffix("").as_posix() for path in SOLUTIONS.rglob("*.py")
    }
    assert files == set(WITH_CODE)
    for name in WITH_CODE:
        assert set(solutions[name]["WRONG"]) == {function for function, *_ in blanks(name)}
