"""The site and JupyterLab in a real browser: pages open without an error, formulas stand, a clip
plays, the search finds, a slider moves a picture.

Needs the Python package `playwright` and Chromium (tests/chromium.py looks for one, or fetches it);
says so and skips where one is missing.
"""

import functools
import html
import http.server
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from urllib.parse import unquote

import pytest
from chromium import system_chromium

playwright = pytest.importorskip(
    "playwright.sync_api",
    reason="the browser tests need the Python package playwright (pip install playwright)",
)

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "docs" / "_build" / "html"
OPTIONS = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
# for one wait, in ms; slow machines need more
LIMIT = 1e3 * float(os.environ.get("TALKER_T2AV_BROWSER_SECONDS", 120))


@pytest.fixture(scope="module")
def browser():
    """The system's Chromium, or Playwright's own where the system has none or one
    that does not start.
    """
    with playwright.sync_playwright() as driver:
        running, reason = None, ""
        for path in filter(lambda path: running is None, dict.fromkeys([system_chromium(), None])):
            try:
                running = driver.chromium.launch(executable_path=path, args=OPTIONS)
            except playwright.Error as error:
                reason = reason or str(error).splitlines()[0]
        if running is None:
            pytest.skip(
                "the browser tests need Chromium that starts (python tests/chromium.py, or your "
                f"system's package): {reason}"
            )
        yield running
        running.close()


@pytest.fixture
def page(browser):
    """A page that notes everything that goes wrong, in `page.faults`."""
    page = browser.new_page()
    page.set_default_timeout(LIMIT)
    page.faults, page.asked = [], []
    page.on(
        "console",
        lambda message: (
            page.faults.append(f"console: {message.text} ({message.location.get('url', '')[:200]})")
            if message.type == "error"
            else None
        ),
    )
    page.on("pageerror", lambda error: page.faults.append(f"script: {error}"))
    page.on(
        "requestfailed",
        lambda request: (
            page.faults.append(f"failed: {request.url[:200]}")
            if "ERR_ABORTED" not in (request.failure or "")
            else None
        ),
    )  # aborted: we left first
    page.on("request", lambda request: page.asked.append(request.url))
    page.on(
        "response",
        lambda response: (
            page.faults.append(f"{response.status}: {response.url[:200]}")
            if response.status >= 400
            else None
        ),
    )
    yield page
    page.close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words):
        pass


@pytest.fixture(scope="module")
def site():
    """Address of the built site, served to this machine only."""
    if not (SITE / "index.html").is_file():
        pytest.skip("the site is not built: make docs")
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=SITE)
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


PAGES = [path.relative_to(SITE).as_posix() for path in sorted(SITE.rglob("*.html"))]
PAGES = [name for name in PAGES if not name.startswith("_")]


def test_pages_are_small():
    """Every page under 2 MB, and no picture or film beside it larger than that."""
    large = {
        str(path.relative_to(SITE)): path.stat().st_size
        for path in SITE.rglob("*")
        if path.suffix in (".html", ".png", ".svg", ".mp4", ".js") and path.stat().st_size > 2e6
    }
    assert not large


def faults_of(name: str, text: str) -> list[str]:
    """What is wrong with the source of a page: no heading, files of the site that are not there,
    files that would be fetched from another machine.
    """
    faults = [] if re.search(r"<h1>.*\w.*</h1>", text) else ["no heading"]
    needed = re.findall(r"<(?:script|img|video|audio|source|iframe)\b[^>]* src=\"([^\"]*)", text)
    needed += re.findall(r"<link\b[^>]* href=\"([^\"]*)", text)
    faults += [f"outside: {url}" for url in needed if re.match(r"(\w+:)?//", url)]
    for url in {*needed, *re.findall(r"<a\b[^>]* href=\"([^\"]*)", text)}:
        file = unquote(html.unescape(url).split("#")[0].split("?")[0])
        if file and not re.match(r"\w+:|//", file):
            if not (SITE / name).parent.joinpath(file).is_file():
                faults.append(f"missing: {url}")
    return [f"{name}: {fault}" for fault in faults]


def test_every_page_is_complete():
    """Headings, links, scripts, styles and pictures, read from the files."""
    assert len(PAGES) > 20
    faults = []
    for name in PAGES:
        faults += faults_of(name, (SITE / name).read_text(encoding="utf-8"))
    assert not faults, faults[:10]


def kind_of(name: str, text: str) -> tuple[frozenset[str], ...]:
    """What a browser does for a page beyond showing text: the scripts that it runs (but for the
    page's own address in them), handlers of events, and elements that play, draw or embed.
    """
    scripts = re.findall(r"<script\b.*?</script>", text, flags=re.S)
    own = re.compile(f"(['\"]){re.escape(name.removesuffix('.html'))}['\"]")
    scripts = [own.sub(r"\1\1", part) for part in scripts]
    scripts = [re.sub(r"(\.\.?/)+", "", part) for part in scripts]
    handlers = re.findall(r"<[^>]*\s(on[a-z]+=\"[^\"]*\")", text)
    elements = r"<(audio|video|iframe|object|embed|canvas|img|svg|math|table|details|form)\b"
    return frozenset(scripts), frozenset(handlers), frozenset(re.findall(elements, text))


def pages_to_open() -> list[str]:
    """The first and the last page of every kind. All other pages have been read from their
    files, and run nothing that these do not run.
    """
    kinds = {}
    for name in PAGES:
        kind = kind_of(name, (SITE / name).read_text(encoding="utf-8"))
        kinds.setdefault(kind, []).append(name)
    return sorted({name for names in kinds.values() for name in (names[0], names[-1])})


def test_pages_that_run_something_else_are_of_another_kind():
    plain = kind_of("a/b.html", '<script src="../x.js"></script><p>text</p>')
    assert plain == kind_of("c.html", '<script src="x.js"></script><p>other text</p>')
    for more in ("<video>", "<script>f()</script>", '<p onclick="f()">', '<math display="block">'):
        assert plain != kind_of("c.html", f'<script src="x.js"></script>{more}')


def test_a_page_with_faults_is_noticed():
    text = (
        '<script src="https://elsewhere.org/a.js"></script><img alt="" src="nothing.png">'
        '<a href="nowhere.html#top">x</a><a href="https://arxiv.org">y</a>'
        '<a href="index.html">z</a><a href="#top">up</a>'
    )
    assert set(faults_of("api_model.html", text)) == {
        "api_model.html: no heading",
        "api_model.html: outside: https://elsewhere.org/a.js",
        "api_model.html: missing: nothing.png",
        "api_model.html: missing: nowhere.html#top",
    }


def test_pages_of_every_kind_open(page, site):
    """No console error, no missing file, nothing asked from another machine, and a heading to be
    seen.
    """
    opened = pages_to_open()
    assert 5 < len(opened) < len(PAGES)
    for name in opened:
        before = len(page.faults)
        page.goto(f"{site}/{name}", wait_until="load")
        heading = page.evaluate("() => document.querySelector('h1, h2')?.innerText ?? ''")
        assert heading, f"{name} shows nothing"
        page.faults[before:] = [f"{name}: {fault}" for fault in page.faults[before:]]
    assert not page.faults
    outside = {url for url in page.asked if not url.startswith((site, "data:", "blob:"))}
    assert not outside, f"the site should need no network: {sorted(outside)[:5]}"


FORMULAS = """() => [...document.querySelectorAll('math')]
    .filter(formula => !formula.closest('details:not([open])'))
    .map(formula => {
        const box = formula.getBoundingClientRect();
        const font = parseFloat(getComputedStyle(formula).fontSize);
        return {wide: box.width / font, high: box.height / font, seen: formula.checkVisibility()};
    })"""


def test_formulas_are_drawn(page, site):
    """Formulas take room on the page; a fraction is higher than a letter; no TeX is
    left over beside them.
    """
    page.goto(f"{site}/3_model/05_flow.html", wait_until="load")
    formulas = page.evaluate(FORMULAS)
    assert len(formulas) > 5 and not [
        formula for formula in formulas if not formula["seen"] or formula["wide"] < 0.2
    ]
    heights = [formula["high"] for formula in formulas]
    assert max(heights) > 1.5 * min(heights) > 0
    prose = page.evaluate(
        "() => [...document.querySelectorAll('article p, article li, article td')].filter(part => "
        "!part.closest('details:not([open])')).map(part => part.innerText).join('\\n')"
    )
    assert len(prose) > 5000 and not re.search(r"\\[a-z]{2,}|\$[^$\d]+\$", prose)


PLAY = """async () => {
    const player = document.querySelector('%s');
    player.muted = true; player.loop = true;
    await player.play();
    for (let i = 0; i < 200 && player.currentTime < 0.2; i++) {
        await new Promise(done => setTimeout(done, 100));
    }
    return player.currentTime;
}"""


def test_sound_plays(page, site):
    page.goto(f"{site}/1_world/01_voice.html", wait_until="load")
    assert page.evaluate(PLAY % "audio") >= 0.2


def test_film_plays(page, site):
    page.goto(f"{site}/index.html", wait_until="load")
    kind = 'video/mp4; codecs="avc1.42E01E, mp4a.40.2"'
    if not page.evaluate(f"() => document.createElement('video').canPlayType('{kind}')"):
        pytest.skip(
            "this Chromium was built without H.264 and AAC (the one of `playwright install` is); "
            "the system's package plays films"
        )
    assert page.evaluate(PLAY % "video") >= 0.2


def test_the_sidebar_shows_parts(page, site):
    """Parts are closed, but for the reader's own; there the main path is marked, and the current
    page can be seen.
    """
    page.goto(f"{site}/3_model/05_flow.html", wait_until="load")
    names = page.evaluate(
        "() => [...document.querySelectorAll('.bd-sidenav > .toctree-l1 > a')]"
        ".map(link => link.innerText)"
    )
    assert names[1].startswith("0 ·") and names[-1] == "Reference" and len(names) < 15
    opened = page.evaluate(
        "() => [...document.querySelectorAll('.bd-sidenav > .toctree-l1 > details[open]')].length"
    )
    assert opened == 1
    own = page.locator(".bd-sidenav .toctree-l2.current > a")
    assert own.is_visible() and own.inner_text().startswith("● 3.5")


def test_search_finds(page, site):
    """A word that one chapter explains is found in that chapter."""
    page.goto(f"{site}/search.html?q=viseme", wait_until="load")
    page.wait_for_function(
        "() => [...document.querySelectorAll('#search-results a')].some(link => "
        "link.href.includes('articulation'))"
    )
    page.goto(f"{site}/search.html?q=qqxyzzyqq", wait_until="load")
    page.wait_for_function(
        "() => /did not match|found 0|no (results|documents)/"
        "i.test(document.querySelector('#search-results').innerText)"
    )
    assert (
        not page.evaluate("() => document.querySelectorAll('#search-results a').length")
        and not page.faults
    )


def test_it_fits_a_telephone(page, site):
    """At 390 pixels nothing sticks out sideways, and the text is as wide as the screen allows."""
    page.set_viewport_size({"width": 390, "height": 800})
    for name in (
        "index.html",
        "0_start/01_map.html",
        "3_model/05_flow.html",
        "workshop/08_glossary.html",
        "api_model.html",
    ):
        page.goto(f"{site}/{name}", wait_until="load")
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 391, name


def test_dark_and_light(page, site):
    """The button switches; text and paper stay apart in both."""
    page.goto(f"{site}/index.html", wait_until="load")
    contrast = """(mode) => {
        document.documentElement.dataset.theme = mode;
        const light = colour => {
            const [r, g, b] = colour.match(/[\\d.]+/g).map(Number);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const style = getComputedStyle(document.querySelector('article p'));
        return light(style.color) - light(getComputedStyle(document.body).backgroundColor);
    }"""
    assert page.evaluate(contrast, "light") < -100 and page.evaluate(contrast, "dark") > 100


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Address of a JupyterLab on a copy of the notebooks, with settings of its own."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "nbs", folder / "nbs", ignore=shutil.ignore_patterns(".*"))
    cells = [
        {
            "cell_type": "code",
            "id": f"cell{i}",
            "metadata": {},
            "execution_count": None,
            "outputs": [],
            "source": text,
        }
        for i, text in enumerate(["1", "1 / 0", "2"])
    ]
    (folder / "nbs" / "broken.ipynb").write_text(
        json.dumps(
            {
                "cells": cells,
                "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3"}},
                "nbformat": 4,
                "nbformat_minor": 5,
            }
        )
    )
    tracker = (
        folder / "settings" / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
    )
    tracker.parent.mkdir(parents=True)
    tracker.write_text(json.dumps({"windowingMode": "none"}))  # cells out of sight exist too
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [
        "lab",
        "--no-browser",
        f"--port={port}",
        "--ip=127.0.0.1",
        "--IdentityProvider.token=",
        "--ServerApp.root_dir=" + str(folder / "nbs"),
        "--expose-app-in-browser",
        "--allow-root",
    ]
    env = os.environ | {
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "OMP_NUM_THREADS": "1",
    }
    with open(folder / "log.txt", "w") as log:
        server = subprocess.Popen(
            [Path(sys.executable).parent / "jupyter", *words], env=env, stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + LIMIT / 1e3
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api", timeout=5).read()
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < deadline, (
                    folder / "log.txt"
                ).read_text()[-2000:]
                time.sleep(0.3)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=30)


@pytest.fixture(scope="module")
def desk(browser, lab):
    """A page with an empty JupyterLab."""
    page = browser.new_page()
    page.set_default_timeout(LIMIT)
    page.goto(f"{lab}/lab?reset", wait_until="load")
    page.wait_for_function("() => window.jupyterapp")
    page.evaluate("() => window.jupyterapp.restored.then(() => true)")
    yield page
    page.close()


OPEN = """async name => {
    const lab = window.jupyterapp;
    window.book = await lab.commands.execute('docmanager:open', {path: name});
    await window.book.context.ready;
    lab.shell.activateById(window.book.id);
    window.finished = false;
}"""


def run_all(page, name: str) -> None:
    """Open a notebook in JupyterLab and run all of its cells; fails when one of them does."""
    page.evaluate(OPEN, name)
    page.wait_for_function("() => window.book.node.querySelectorAll('.jp-CodeCell').length > 2")
    page.wait_for_function("() => window.book.sessionContext.session?.kernel?.status === 'idle'")
    page.evaluate(
        "() => { window.jupyterapp.commands.execute('notebook:run-all-cells').then(() => { "
        "window.finished = true; }); }"
    )
    page.wait_for_function("() => window.finished")
    cells = [
        cell
        for cell in page.evaluate("() => window.book.context.model.toJSON().cells")
        if cell["cell_type"] == "code"
    ]
    errors = [
        f"{output['ename']}: {output['evalue']}"
        for cell in cells
        for output in cell["outputs"]
        if output["output_type"] == "error"
    ]
    assert not errors, errors
    assert all(cell["execution_count"] for cell in cells), "some cells were not run"


def test_index_runs_in_jupyterlab(desk):
    """All cells of the first page run, and its films are there."""
    run_all(desk, "index.ipynb")
    assert desk.evaluate("() => document.querySelectorAll('.jp-Notebook video').length") >= 1


def test_a_cell_that_fails_is_noticed(desk):
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        run_all(desk, "broken.ipynb")


PICTURE = (
    "() => [...document.querySelectorAll('.jupyter-widgets img, .widget-output img')].map(picture "
    "=> picture.src).join()"
)


def test_a_slider_moves_a_picture(desk):
    """The length of a spectrogram's window: run the notebook, press an arrow key on the slider,
    and see another picture.
    """
    run_all(desk, "2_codecs/00_spectrogram.ipynb")
    desk.wait_for_function(f"() => ({PICTURE})().length > 100")
    before = desk.evaluate(PICTURE)
    desk.focus(".noUi-handle")
    for _ in range(4):
        desk.keyboard.press("ArrowRight")
    desk.wait_for_function(
        f"() => ({PICTURE})() !== {json.dumps(before)} && ({PICTURE})().length > 100"
    )
