"""Chromium for the browser tests: the system's, or else the one that Playwright downloads.

    python tests/chromium.py      makes sure that there is one if it can, and says which

A machine without a network goes without: then tests/test_browser.py is skipped and says why.
"""

import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE = 600  # seconds for the download


def system_chromium() -> str | None:
    """Path of the browser that the system's packages brought, None if they brought none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def own_chromium() -> str | None:
    """Path of the browser that Playwright downloaded earlier, None if it did not."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        path = driver.chromium.executable_path
    return path if Path(path).exists() else None


def download() -> str:
    """Let Playwright fetch its Chromium; the reason if it cannot, else nothing."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "playwright", "install", "chromium"],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    except subprocess.TimeoutExpired:
        return f"not finished after {PATIENCE} seconds"
    lines = [line for line in (done.stdout + done.stderr).splitlines() if "rror" in line]
    return (
        ""
        if done.returncode == 0
        else lines[0].strip()
        if lines
        else f"exit code {done.returncode}"
    )


def main() -> int:
    """Always 0: a missing browser skips tests, it does not fail them."""
    found, reason = system_chromium() or own_chromium(), ""
    if not found:
        print("== Fetching Chromium for the browser tests (once, about 200 MB)", flush=True)
        reason = download()
        found = own_chromium()
    print(
        f"== Browser tests: {found}"
        if found
        else (
            "== Browser tests will be SKIPPED: no Chromium here, and Playwright could not "
            f"fetch one ({reason})"
        ),
        flush=True,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
