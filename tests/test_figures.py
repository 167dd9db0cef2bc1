"""The map tells the truth: it shows what exists, under its own number, with the main path of the
course.
"""

import json
import re
import sys
from pathlib import Path

import pytest

from talker_t2av.common import figures
from talker_t2av.common.figures import ARROWS, BOXES, MAIN_PATH, MODULES, overview_svg

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs"))

import course  # noqa: E402

BOOKS = list(course.notebooks())
TABLE = json.loads(course.TABLE.read_text(encoding="utf-8"))


def test_stations_are_the_main_path_of_the_course():
    """The line below the map and the path in docs/course.json: same notebooks, same order."""
    path = [course.label(name) for name in course.main_path(TABLE, BOOKS)]
    assert list(figures.stations()) == path
    assert not set(MAIN_PATH) - set(figures.notebook_of()), "a station without a module"


def test_numbers_are_those_of_the_course():
    for name in BOOKS:
        assert figures.notebook_label(name) == course.label(name)


def test_every_module_has_a_place():
    """Whoever reads the notebook of a module is shown where it is; every box is drawn."""
    for module in figures.notebook_of():
        assert overview_svg(module) != overview_svg(), module
    drawn = overview_svg()
    assert all(f">{box[6]}<" in drawn for box in BOXES)
    assert {box[0] for box in BOXES} <= set(MODULES)


def test_a_part_that_does_not_exist_is_not_drawn(monkeypatch):
    known = dict(figures.notebook_of())
    del known["model.stop"], known["model.flow"]
    monkeypatch.setattr(figures, "notebook_of", lambda: known)
    drawn = overview_svg()
    assert ">Stop<" not in drawn and ">flow<" not in drawn and ">Backbone<" in drawn
    assert drawn.count("marker-end") == len(ARROWS) - 1
    with pytest.raises(ValueError, match="stop"):
        overview_svg("stop")


def test_the_readers_place_is_lit():
    drawn = overview_svg("model.backbone")
    number = figures.notebook_label(figures.notebook_of()["model.backbone"])
    assert re.search(rf'underline">{re.escape(number)}</tspan>', drawn)
    assert drawn.count('<g opacity="0.45">') == len(BOXES) - 1
    near = [arrow for arrow in ARROWS if "backbone" in arrow[:2]]
    assert drawn.count('opacity="0.25"') == len(ARROWS) - len(near)
    assert drawn.count(f'r="6" fill="{figures.JOINT}"') == 1  # its station


def test_a_wrong_name_is_refused():
    with pytest.raises(ValueError, match="bakcbone"):
        overview_svg("bakcbone")
