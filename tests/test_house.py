"""The house is in order: the package is what the notebooks export, notebooks are clean, exported
code stands on its own feet, and arrows between parts run one way.
"""

import ast
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
sys.path.insert(0, str(ROOT / "docs"))

import course  # noqa: E402

NBS, PACKAGE = ROOT / "nbs", ROOT / "talker_t2av"
NOTEBOOKS = sorted(path for path in NBS.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
FILES = sorted(file for file in PACKAGE.rglob("*.py") if file.name != "_modidx.py")


def module_name(file: Path) -> str:
    """ "world.voice.voices"; a folder's own file is called like the folder, the package's ""."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {module_name(file): file for file in FILES}


def notebook_name(path: Path) -> str:
    return path.relative_to(NBS).with_suffix("").as_posix()


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """A fresh export of every notebook into an empty folder, made with the
    project's own settings.
    """
    folder = tmp_path_factory.mktemp("export")
    shutil.copy(ROOT / "settings.ini", folder)
    shutil.copytree(NBS, folder / "nbs", ignore=shutil.ignore_patterns(".*"))
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

    fresh, kept = files(exported), files(PACKAGE)
    assert sorted(fresh) == sorted(kept), (
        "modules differ; run `make export` and remove modules without a notebook"
    )
    stale = [name for name in fresh if fresh[name] != kept[name]]
    assert not stale, f"edited by hand or not exported: {stale}; run `make export`"


LAID_OUT = ["nbs", "tests", "docs", "benchmarks", "setup.py"]


@pytest.mark.parametrize("words", [["format", "--check"], ["check"]], ids=" ".join)
def test_code_is_laid_out(words):
    """Notebooks, tests and documents are as `make format` would leave them (ruff, see
    pyproject.toml).
    """
    ruff = Path(sys.executable).parent / "ruff"
    done = subprocess.run(
        [ruff, *words, "--quiet", *LAID_OUT], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, f"make format\n{done.stdout[-3000:]}{done.stderr[-1000:]}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=notebook_name)
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


def map_key(cells: list) -> str | None:
    """The key with which a notebook calls `overview`; None for the whole map.

    Raises ValueError when no cell draws it.
    """
    for cell in cells:
        call = re.search(r"^overview\((?:\"([\w.]+)\")?\)", cell["source"], flags=re.M)
        if cell["cell_type"] == "code" and call:
            return call[1]
    raise ValueError("no overview figure")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=notebook_name)
def test_notebook_is_a_chapter(path):
    """One title, three exercises with hidden answers, and stored outputs.

    The index and what is only looked up have no exercises.
    """
    nb = nbformat.read(path, 4)
    prose = "\n".join(cell.source for cell in nb.cells if cell.cell_type == "markdown")
    code = [cell for cell in nb.cells if cell.cell_type == "code"]
    assert len(re.findall(r"^# ", prose, flags=re.M)) == 1
    assert any(cell.outputs for cell in code), "no stored outputs: run `make refresh`"
    name = notebook_name(path)
    if name != "index" and name not in course.REFERENCE:
        assert prose.count("<details><summary>Answer</summary>") >= 3, (
            "fewer than three exercises with hidden answers"
        )


def shows_todays_map(path: Path) -> bool:
    """Does a notebook draw the map, and is the stored one what it would draw today?"""
    from talker_t2av.common.figures import overview

    nb = nbformat.read(path, 4)
    outputs = [output for cell in nb.cells for output in cell.get("outputs", [])]
    shown = [output.get("data", {}).get("image/svg+xml") for output in outputs]
    return overview(map_key(nb.cells))._repr_svg_() in shown


def test_maps_are_todays():
    """Every notebook draws the map; the stored ones show what exists today."""
    stale = [notebook_name(path) for path in NOTEBOOKS if not shows_todays_map(path)]
    assert not stale, f"python docs/refresh.py --map renews {len(stale)}: {', '.join(stale)}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=notebook_name)
def test_the_map_lights_the_readers_place(path):
    """A notebook that exports a module calls overview with its name: then its own number is lit."""
    cells = nbformat.read(path, 4).cells
    text = "\n".join(cell.source for cell in cells)
    module = re.search(r"^#\| default_exp (\S+)", text, flags=re.M)
    if module and module[1] != "common.figures":
        assert map_key(cells) == module[1]


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
        members = []
        if isinstance(thing, types.FunctionType):
            members = [thing]
        elif isinstance(thing, type):
            members = list(vars(thing).values())
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
    modules = [f"talker_t2av.{name}".rstrip(".") for name in MODULES]
    script = CHECK.format(tests=str(ROOT / "tests"), modules=modules)
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


# Arrows run one way: a part may import itself and the parts that it stands on. The order is that
# of the folders in nbs/; `common` is what the workshop exports.
STANDS_ON = {
    "common": set(),
    "world": {"common"},
    "codecs": {"common", "world"},
    "model": {"common"},
    "training": {"common", "world", "codecs", "model"},
    "inference": {"common", "world", "codecs", "model"},
    "evaluation": {"common", "world", "codecs", "model", "training", "inference"},
    "studies": {"common", "world", "codecs", "model", "training", "inference", "evaluation"},
    "released": {"common", "world", "codecs", "model", "training", "inference", "evaluation"},
}


def imports_of(source: str, name: str, modules=MODULES) -> set[str]:
    """The modules of the package that one module imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("talker_t2av")}
        if isinstance(node, ast.ImportFrom):
            home = node.module or ""
            if node.level:
                above = ["talker_t2av", *name.split(".")][: -node.level]
                home = ".".join([*above, *([node.module] if node.module else [])])
            if home.split(".")[0] == "talker_t2av":
                found |= {f"{home}.{alias.name}" for alias in node.names}
    short = set()
    for full in found:
        full = full.partition(".")[2]
        while full and full not in modules:
            full = full.rpartition(".")[0]
        short.add(full)
    return short - {name}


IMPORTS = {
    name: imports_of(file.read_text(encoding="utf-8"), name) for name, file in MODULES.items()
}


def circle(arrows: dict[str, set[str]]) -> list[str]:
    """The names that lie on circles, or between them; none when all arrows run one way."""
    left = {name: set(ends) for name, ends in arrows.items()}
    while True:
        ends = {name for name in left if not left[name] & set(left)}
        starts = {name for name in left if not any(name in other for other in left.values())}
        if not ends | starts:
            return sorted(left)
        left = {name: found for name, found in left.items() if name not in ends | starts}


@pytest.mark.parametrize("name", [name for name in MODULES if "." in name])
def test_arrows_run_one_way(name):
    """No module imports from a part that stands on its own part."""
    part = name.split(".")[0]
    used = {other.split(".")[0] for other in IMPORTS[name] if other}
    assert used - {part} <= STANDS_ON[part], f"{name} imports {sorted(IMPORTS[name])}"


def test_no_two_files_import_each_other():
    """Not at the top, not inside a function, not around three corners."""
    assert not circle(IMPORTS)


def test_the_arrow_checks_can_fail():
    names = {"": "", "a.b": "", "a.c": "", "common.d": ""}
    code = "from ..common.d import x\nfrom . import c\ndef f():\n    import talker_t2av.a.b\n"
    assert imports_of(code, "a.b", names) == {"common.d", "a.c"}
    assert imports_of(code, "a.c", names) == {"common.d", "a.b"}
    assert imports_of("from talker_t2av import thing", "a.b", names) == {""}
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == ["a", "b", "c"]
    assert not circle({"a": {"b", "c"}, "b": {"c"}, "c": set()})


def test_one_door():
    """At the top of the package: the door, the command line, and what nbdev keeps for itself."""
    tops = {file.name for file in PACKAGE.glob("*.py")}
    assert tops == {"__init__.py", "cli.py", "_modidx.py"}


def written_in(file: Path) -> str:
    """The notebook that exports a module, from the module's own header."""
    found = re.search(r"File to edit: \S*?nbs/(\S+)\.ipynb", file.read_text(encoding="utf-8"))
    return found[1] if found else ""


def test_book_and_package_have_the_same_parts():
    """A folder of the package for each part of the book that exports code, in one order; modules
    come from notebooks of their own part, tools from the workshop.
    """
    folders = [path.name for path in sorted(NBS.iterdir()) if path.is_dir() and path.name[0] != "."]
    parts = [course.WORKSHOP, *(name for name in folders if name != course.WORKSHOP)]
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    inside = {"workshop": "common"} | {name: name.partition("_")[2] for name in parts[1:]}
    order = [inside[name] for name in parts if inside[name] in packages]
    assert order == list(STANDS_ON) and set(order) == packages
    assert set(folders) <= set(course.PARTS)
    misplaced = {}
    for name, file in MODULES.items():
        home = written_in(file)
        if not home and file.name == "__init__.py" and not file.read_text().strip():
            continue
        folder = home.split("/")[0]
        if folder != course.WORKSHOP and inside.get(folder) != name.split(".")[0]:
            own_tool = name.startswith("common.") and folder == "0_start"  # clock and files
            if not own_tool:
                misplaced[name] = home
    assert not misplaced


HOMES = {name: written_in(file) for name, file in MODULES.items()}
NUMBERED = [
    notebook_name(path)
    for path in NOTEBOOKS
    if path.parent != NBS and path.parent.name != course.WORKSHOP
]


@pytest.mark.parametrize("name", NUMBERED)
def test_no_notebook_imports_what_a_later_one_defines(name):
    """Nor what it defines itself. The workshop is background that anything may use."""
    later = {}
    for i, cell in enumerate(nbformat.read(NBS / f"{name}.ipynb", 4).cells):
        if cell["cell_type"] == "code":
            for module in re.findall(
                r"^\s*(?:from|import) talker_t2av\.([\w.]+)", cell.source, re.M
            ):
                home = HOMES.get(module, "")
                if home in NUMBERED and NUMBERED.index(home) >= NUMBERED.index(name):
                    later[f"cell {i}"] = f"{module} of {home}"
    assert not later


ONE_MEANING = {"semantic_loss", "warp", "feature_loss", "discriminator_loss", "latent_statistics"}


def test_every_public_name_means_one_thing():
    """No two modules of one part export the same name; some names have one home in the whole
    package, because two ideas shared them once.
    """
    homes = {}
    for name, file in MODULES.items():
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                for public in ast.literal_eval(node.value):
                    part = "anywhere" if public in ONE_MEANING else name.split(".")[0]
                    homes.setdefault((part, public), []).append(name)
    twice = {key: found for key, found in homes.items() if len(found) > 1}
    assert not {key: found for key, found in twice.items() if not key[1].isupper()}


def test_data_stays_small():
    assert sum(file.stat().st_size for file in (ROOT / "data").rglob("*") if file.is_file()) < 40e6
