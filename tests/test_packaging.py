"""What pip gets: a wheel made from the source distribution, installed elsewhere, works without
the clone; and everything it imports is asked for.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = ConfigParser(delimiters=["="])
SETTINGS.read(ROOT / "settings.ini", encoding="utf-8")
SETTINGS = SETTINGS["DEFAULT"]


def run(*words, cwd, **variables) -> str:
    """Output of a command whose Python sees neither the clone nor the user's own settings;
    fails with what it said.
    """
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TALKER_T2AV", "PYTHON", "PIP_"))
    } | variables
    done = subprocess.run(
        [str(word) for word in words], cwd=cwd, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder into which pip installed the wheel that was built, offline, from the
    source distribution.
    """
    folder = tmp_path_factory.mktemp("packaging")
    clone = folder / "clone"
    keep = shutil.ignore_patterns("__pycache__", "results", ".*")
    for name in ("talker_t2av", "data"):
        shutil.copytree(ROOT / name, clone / name, ignore=keep)
    for file in [*ROOT.glob("*.*"), ROOT / "LICENSE"]:
        if file.is_file():
            shutil.copy(file, clone)
    run(
        sys.executable,
        "-m",
        "build",
        "--no-isolation",
        "--outdir",
        folder / "dist",
        clone,
        cwd=folder,
    )  # wheel from sdist
    (wheel,) = (folder / "dist").glob("*.whl")
    (source,) = (folder / "dist").glob("*.tar.gz")
    assert (
        wheel.name == f"talker_t2av-{SETTINGS['version']}-py3-none-any.whl"
        and source.name == f"talker_t2av-{SETTINGS['version']}.tar.gz"
    )
    shutil.rmtree(clone)  # nothing may be found there any more
    run(
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--disable-pip-version-check",
        "--target",
        folder / "site",
        wheel,
        cwd=folder,
    )
    return folder / "site"


CHECK = """
from pathlib import Path
import sys
import talker_t2av.cli
from talker_t2av.common.media import data_dir
from talker_t2av.model.text import load_tokenizer
from talker_t2av.common.hub import WEIGHTS, find_pretrained
from talker_t2av.world.sentences import lexicon

site = Path(sys.argv[1])
assert site in Path(talker_t2av.__file__).parents, talker_t2av.__file__
assert data_dir() == site / "talker_t2av" / "data", data_dir()
lexicon()
assert len(load_tokenizer("small").encode("Hello.")) > 0
kinds = sys.argv[2:]
assert kinds
for kind in kinds:
    assert (find_pretrained("small", kind) / WEIGHTS).stat().st_size > 1000
assert talker_t2av.cli.main(["say", "Hi.", "-o", "hi.mp4"]) == 0
"""


def test_installed_wheel_finds_its_data_and_speaks(site, tmp_path):
    """Words, tokenizer and all shipped weights are found from a foreign folder, and the talker
    makes a film from them.
    """
    kinds = sorted(
        file.parent.name for file in (ROOT / "data" / "small").glob("*/model.safetensors")
    )
    run(sys.executable, "-c", CHECK, site, *kinds, cwd=tmp_path, PYTHONPATH=str(site))
    assert (tmp_path / "hi.mp4").stat().st_size > 1000


def test_installed_program_starts(site, tmp_path):
    """The console script is there and finds the package."""
    program = site / "bin" / "talker-t2av"
    said = run(sys.executable, program, "--help", cwd=tmp_path, PYTHONPATH=str(site))
    assert "usage: talker-t2av" in said


def test_the_wheel_holds_the_package_and_its_data_only(site):
    """No tests, no notebooks, no measured results; every module of the clone;
    small enough to download.
    """
    tops = {path.name for path in site.iterdir()}
    assert tops == {"bin", "talker_t2av", f"talker_t2av-{SETTINGS['version']}.dist-info"}
    modules = lambda top: {str(file.relative_to(top)) for file in top.rglob("*.py")}
    assert modules(site / "talker_t2av") == modules(ROOT / "talker_t2av")
    data = {path.name for path in (site / "talker_t2av" / "data").iterdir()}
    assert data == {"README.md", "words", "texts", "small"}
    assert sum(file.stat().st_size for file in site.rglob("*") if file.suffix != ".pyc") < 40e6


# with ipywidgets; with matplotlib, which could not draw without them
COMES_ALONG = {"ipython", "pillow", "cycler"}


def test_version_is_said_once():
    """settings.ini decides; the citation and the newest entry of the changelog agree with it."""
    assert (
        re.search(
            r"^version: (\S+)", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.M
        ).group(1)
        == SETTINGS["version"]
    )
    assert (
        re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M).group(1)
        == SETTINGS["version"]
    )


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


EXTRAS = {
    "neural.py": "neural_requirements",
    "pictures.py": "faces_requirements",
    "outside.py": "judges_requirements",
}


def test_requirements_cover_every_import():
    """What the package imports, at the top or inside a function, is in `requirements`; what only
    notebooks and tests need need not be. Neural voices, the face finder and outside judges may ask
    for their extra, which need not be installed.
    """

    def listed(key):
        return {canonical(re.split(r"[=<>~!]", item)[0]) for item in SETTINGS[key].split()}

    always = listed("requirements") | COMES_ALONG
    owners, lost = packages_distributions(), {}
    for file in (ROOT / "talker_t2av").rglob("*.py"):
        asked = always | (listed(EXTRAS[file.name]) if file.name in EXTRAS else set())
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module]
                if isinstance(node, ast.ImportFrom) and not node.level
                else []
            )
            for top in (
                {name.split(".")[0] for name in names}
                - set(sys.stdlib_module_names)
                - {"talker_t2av"}
            ):
                if not {canonical(name) for name in owners.get(top, [top])} & asked:
                    lost.setdefault(top, []).append(file.name)
    assert not lost, f"imported but not in settings.ini's requirements: {lost}"
