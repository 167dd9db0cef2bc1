"""Run every notebook from top to bottom, two at a time, and say which ones fail.

    python docs/run.py                     all notebooks
    python docs/run.py 1_world 3_model/05  those whose names start so

This is nbdev's own test (cells flagged slow or cuda are left out, nothing is stored), with two
differences that save time. The notebooks that took longest when they were last refreshed
(data/results/notebook_times.json) come first, so that both cores are busy to the end. And pictures
are drawn once, at their own size, without a search for the best margins.
"""

import gc
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from io import BytesIO
from pathlib import Path

import nbdev.test
from execnb.shell import CaptureShell
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from nbdev.config import get_config

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
TIMES = ROOT / "data" / "results" / "notebook_times.json"


def drawn_once(figure: Figure) -> bytes:
    """A picture as PNG, every part of it drawn. To find out how wide its margins must be, Jupyter
    and Matplotlib go through all parts three times more; nobody sees these pictures.
    """
    figure.set_layout_engine("none")
    png = BytesIO()
    FigureCanvasAgg(figure).print_png(png, pil_kwargs={"compress_level": 1})
    return png.getvalue()


def quick_shell(*args, **kwargs) -> CaptureShell:
    "nbdev's shell, which draws each picture once."
    shell = CaptureShell(*args, mpl_format="png", **kwargs)
    shell.display_formatter.formatters["image/png"].for_type(Figure, drawn_once)
    return shell


def draw_quickly() -> None:
    nbdev.test.CaptureShell = quick_shell


def load_libraries() -> None:
    """Once for both processes, which are forked from this one (where the system forks). What the
    imports made is there to stay: no search for garbage goes through it.
    """
    import talker_t2av.inference.pipeline  # noqa: F401

    gc.freeze()


def longest_first(names: list[str]) -> list[str]:
    """Sorted by measured running time; a notebook that was never measured may be long too."""
    values = json.loads(TIMES.read_text(encoding="utf-8"))["values"] if TIMES.is_file() else {}
    seconds = {name: value["seconds"] for name, value in values.items()}
    return sorted(names, key=lambda name: -seconds.get(name, float("inf")))


def main(starts: list[str]) -> int:
    paths = [path for path in NBS.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts]
    names = sorted(path.relative_to(NBS).with_suffix("").as_posix() for path in paths)
    chosen = [name for name in names if not starts or name.startswith(tuple(starts))]
    if not chosen:
        raise SystemExit(f"docs/run.py: no notebook's name starts with {' or '.join(starts)}")
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # two notebooks share two cores
    os.environ.setdefault("MPLBACKEND", "agg")
    skipped = get_config(path=ROOT).tst_flags.split()
    begin, failed = time.perf_counter(), []
    load_libraries()
    with ProcessPoolExecutor(2, initializer=draw_quickly) as workers:
        running = {}
        for name in longest_first(chosen):
            path = NBS / f"{name}.ipynb"
            task = workers.submit(nbdev.test.test_nb, path, skip_flags=skipped, basepath=ROOT)
            running[task] = name
        for task in as_completed(running):
            passed, seconds = task.result()
            name = running[task]
            print(f"{name:32s} {seconds:6.1f} s{'' if passed else '  FAILED'}", flush=True)
            if not passed:
                failed.append(name)
    seconds = time.perf_counter() - begin
    print(f"{len(chosen)} notebooks in {seconds:.0f} s, {len(failed)} failed")
    for name in failed:
        print(f"failed: {name} (its traceback is above)")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
