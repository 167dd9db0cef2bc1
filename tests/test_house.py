"""The house is in order: the package is what the notebooks export, notebooks are clean, and
exported code stands on its own feet.
"""

import builtins
import dis
import json
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "nbs").rglob("*.ipynb"))
MODULES = sorted(
    ".".join(file.relative_to(ROOT).with_suffix("").parts)
    for file in (ROOT / "talker_t2av").rglob("*.py")
    if file.name not in ("__init__.py", "_modidx.py")
)


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """A fresh export of every notebook into an empty folder, made with the
    project's own settings.
    """
    folder = tmp_path_factory.mktemp("export")
    shutil.copy(ROOT / "settings.ini", folder)
    shutil.copytree(ROOT / "nbs", folder / "nbs", ignore=shutil.ignore_patterns(".*"))
    (folder / "pyproject.toml").write_text("")
    done = subprocess.run(
        [Path(sys.executable).parent / "nbdev_export"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder / "talker_t2av"


def test_package_is_what_the_notebooks_export(exported):
    """`make export` would change nothing: same files, same bytes."""

    def files(folder):
        return {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*.py")}

    fresh, kept = files(exported), files(ROOT / "talker_t2av")
    assert sorted(fresh) == sorted(kept), (
        "modules differ; run `make export` and remove modules without a notebook"
    )
    stale = [name for name in fresh if fresh[name] != kept[name]]
    assert not stale, f"edited by hand or not exported: {stale}; run `make export`"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_clean(path):
    """No execution counts, no editor metadata, a valid file, under 1.5 MB, every code
    cell's output stored.
    """
    from nbdev.clean import clean_nb
    from nbdev.config import get_config

    nb = json.loads(path.read_text())
    nbformat.validate(nbformat.from_dict(nb))
    cleaned = json.loads(json.dumps(nb))
    clean_nb(cleaned, clean_ids=get_config(path=ROOT).clean_ids)
    assert cleaned == nb, "run `make export` (it cleans metadata)"
    assert path.stat().st_size < 1.5e6, "over 1.5 MB: use fewer or smaller figures and players"
    text = json.dumps(
        [*(cell.get("outputs") for cell in nb["cells"]), nb["metadata"].get("widgets")]
    )  # what sliders show is stored with the widgets
    assert not re.search(r"/tmp/|ipykernel_\d|/home/|UserWarning", text), (
        "an output shows a path of the machine or a warning"
    )
    errors = [
        cell["source"]
        for cell in nb["cells"]
        for out in cell.get("outputs", [])
        if out["output_type"] == "error"
    ]
    assert not errors, f"a cell ends in a stored error: {errors}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_a_chapter(path):
    """One title, the overview figure, three exercises with hidden answers, and stored outputs.

    The index and the appendix (9...) teach by reference: no exercises.
    """
    nb = nbformat.read(path, 4)
    prose = "\n".join(cell.source for cell in nb.cells if cell.cell_type == "markdown")
    code = [cell for cell in nb.cells if cell.cell_type == "code"]
    assert len(re.findall(r"^# ", prose, flags=re.M)) == 1
    assert any("overview(" in cell.source for cell in code), "no overview figure"
    assert any(cell.outputs for cell in code), "no stored outputs: run `make refresh`"
    if path.stem != "index" and not path.stem.startswith("9"):
        assert prose.count("<details><summary>Answer</summary>") >= 3, (
            "fewer than three exercises with hidden answers"
        )


def unresolved_names(module: types.ModuleType) -> set[str]:
    """Global names that functions of `module` would look up and not find: leftovers of a
    notebook's own globals.
    """
    missing = set()

    def visit(code, known):
        for step in dis.get_instructions(code):
            if (
                step.opname in ("LOAD_GLOBAL", "LOAD_NAME")
                and not hasattr(builtins, step.argval)
                and step.argval not in known
            ):
                missing.add(f"{code.co_name}: {step.argval}")
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                visit(constant, known)

    for thing in vars(module).values():
        if getattr(thing, "__module__", None) != module.__name__:
            continue
        members = (
            [thing]
            if isinstance(thing, types.FunctionType)
            else list(vars(thing).values())
            if isinstance(thing, type)
            else []
        )
        for member in members:
            member = (
                getattr(member, "fget", None)
                or getattr(member, "func", None)
                or getattr(member, "__func__", member)
            )
            member = getattr(member, "__wrapped__", member)
            if isinstance(member, types.FunctionType):
                visit(member.__code__, member.__globals__)
    return missing


CHECK = """
import importlib, sys
sys.path.insert(0, {tests!r})
from test_house import unresolved_names
for name in {modules!r}:
    missing = unresolved_names(importlib.import_module(name))
    assert not missing, f"{{name}} leans on names it does not define: {{sorted(missing)}}"
"""


def test_exported_code_stands_alone():
    """In a fresh process, every module imports and no function of it needs a name that only a
    notebook would define.
    """
    script = CHECK.format(tests=str(ROOT / "tests"), modules=MODULES)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT.parent
    )
    assert done.returncode == 0, done.stderr.splitlines()[-1]


def test_the_lone_code_check_can_fail():
    """The check above catches a function, a method and a closure that lean on missing globals,
    and lets good ones pass.
    """
    bad, good = types.ModuleType("bad"), types.ModuleType("good")
    exec(
        "def f(): return bs\nclass A:\n    def g(self): return [xl for _ in 'ab']\n    @property\n"
        "    def h(self): return lambda: zz",
        vars(bad),
    )
    exec("bs = 1\ndef f(): return bs + len('a')", vars(good))
    assert {name.split(": ")[1] for name in unresolved_names(bad)} == {"bs", "xl", "zz"}
    assert not unresolved_names(good)


ALLOWED = {  # arrows run one way: a package may import what stands on its right, and itself
    "overview": set(),
    "media": {"overview"},
    "pretrained": {"media"},
    "world": {"media"},
    "codecs": {"media", "pretrained", "training_loop", "world"},
    "model": {"media"},
}


@pytest.mark.parametrize("module", MODULES)
def test_arrows_run_one_way(module):
    """World and model know only themselves and the tools below them; codecs are
    trained on the world.
    """
    part = module.split(".")[1]
    if part not in ALLOWED:
        return
    source = (ROOT / (module.replace(".", "/") + ".py")).read_text()
    used = set(re.findall(r"^\s*(?:from|import) (?:talker_t2av\.|\.\.?)(\w+)", source, flags=re.M))
    siblings = {name.split(".")[2] for name in MODULES if name.startswith(f"talker_t2av.{part}.")}
    assert used - {part} - siblings <= ALLOWED[part], f"{module} imports {sorted(used)}"


def test_sizes():
    """Files under 400 lines; data under 40 MB."""
    long = {
        file.name: n
        for file in (ROOT / "talker_t2av").rglob("*.py")
        if file.name != "_modidx.py" and (n := len(file.read_text().splitlines())) > 400
    }
    assert not long, f"over 400 lines: {long}"
    assert sum(file.stat().st_size for file in (ROOT / "data").rglob("*") if file.is_file()) < 40e6
