"""Run notebooks in place, store fresh outputs, and write down how long each took:
data/results/notebook_times.json.

    python docs/refresh.py                    all notebooks, in reading order
    python docs/refresh.py 1_world 3_model/05  those whose names start so; other times are kept
    python docs/refresh.py --map              only the map at the top of each, without running it

A notebook is replaced only after its last cell ran; a failing one stops the run and stays as it
was.
Pictures are stored with a palette where nobody would see it: that makes them less than half as
large.
"""

import json
import re
import sys
import time
from base64 import b64decode, b64encode
from io import BytesIO
from pathlib import Path

import nbformat
import numpy as np
from nbclient import NotebookClient
from nbdev.clean import clean_nb
from nbdev.config import get_config
from PIL import Image

from talker_t2av.common.figures import overview
from talker_t2av.common.media import atomic_path, data_dir, write_result

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
TIMES = data_dir() / "results" / "notebook_times.json"


def with_palette(png: bytes, colours: int = 128, floor: float = 36.0) -> bytes:
    """The picture with so many colours at most, unless that is no smaller, or is off by more
    than `floor` (PSNR in dB).
    """
    picture = Image.open(BytesIO(png))
    if picture.mode == "P" and len(picture.getpalette()) <= 3 * colours:
        return png
    picture = picture.convert("RGBA")
    plain = Image.new("RGB", picture.size, "white")
    plain.paste(picture, mask=picture.getchannel("A"))
    few = plain.quantize(colours, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    error = np.mean(
        (np.asarray(few.convert("RGB"), dtype=float) - np.asarray(plain, dtype=float)) ** 2
    )
    packed = BytesIO()
    few.save(packed, "PNG", optimize=True)
    good = error <= 255**2 / 10 ** (floor / 10)
    return packed.getvalue() if good and packed.tell() < len(png) else png


def pack_pictures(cells: list) -> None:
    """Give every stored PNG its palette, in place."""
    for output in (
        output
        for cell in cells
        for output in cell.get("outputs", ())
        if "image/png" in output.get("data", {})
    ):
        png = output["data"]["image/png"]
        output["data"]["image/png"] = b64encode(
            with_palette(b64decode(png if isinstance(png, str) else "".join(png)))
        ).decode()


def refresh(path: Path) -> dict:
    """Execute one notebook where it lies; returns seconds and kilobytes."""
    nb = nbformat.read(path, 4)
    start = time.perf_counter()
    NotebookClient(
        nb, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}
    ).execute()
    seconds = time.perf_counter() - start
    for cell in nb.cells:
        cell.metadata.pop("execution", None)
    plain = json.loads(nbformat.writes(nb))
    pack_pictures(plain["cells"])
    clean_nb(plain, clean_ids=get_config(path=ROOT).clean_ids)
    with atomic_path(path) as temporary:
        temporary.write_text(
            json.dumps(plain, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    return {"seconds": round(seconds, 1), "kilobytes": round(path.stat().st_size / 1e3)}


def redraw_map(path: Path) -> bool:
    """Store today's map in the cells of one notebook that show it; was it another one before?"""
    nb = json.loads(path.read_text(encoding="utf-8"))
    changed = False
    for cell in nb["cells"]:
        call = re.search(r"^overview\((?:\"([\w.]+)\")?\)$", "".join(cell["source"]), flags=re.M)
        for output in cell.get("outputs", []):
            if call and "image/svg+xml" in output.get("data", {}):
                svg = overview(call[1])._repr_svg_().splitlines(keepends=True)
                changed |= output["data"]["image/svg+xml"] != svg
                output["data"]["image/svg+xml"] = svg
    if changed:
        with atomic_path(path) as temporary:
            text = json.dumps(nb, indent=1, ensure_ascii=False)
            temporary.write_text(text + "\n", encoding="utf-8")
    return changed


def main(starts: list[str]) -> int:
    names = {
        str(path.relative_to(NBS).with_suffix("")): path for path in sorted(NBS.rglob("*.ipynb"))
    }
    if starts == ["--map"]:
        changed = [name for name, path in names.items() if redraw_map(path)]
        print(f"maps renewed: {', '.join(changed) or 'none'}")
        return 0
    chosen = [name for name in names if not starts or name.startswith(tuple(starts))]
    if not chosen:
        raise SystemExit(f"docs/refresh.py: no notebook's name starts with {' or '.join(starts)}")
    for name in chosen:
        taken = refresh(names[name])
        print(f"{name:32s} {taken['seconds']:6.1f} s {taken['kilobytes']:6d} kB", flush=True)
        times = json.loads(TIMES.read_text(encoding="utf-8"))["values"] if TIMES.is_file() else {}
        times = {known: value for known, value in (times | {name: taken}).items() if known in names}
        write_result(TIMES, dict(sorted(times.items())), "make refresh")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
