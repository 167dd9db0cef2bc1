"""Run every benchmark of this folder (or those named), print one table, write
data/results/benchmarks.json.

    python benchmarks/run.py [NAME ...]      e.g. python benchmarks/run.py face voice

A benchmark is a file bench_NAME.py with a function run() that returns a list of {"name", "value",
"unit", "note"}.
Timings of a shared machine are noisy: each benchmark takes the best or the median of several runs
and says which in its note.
"""

import argparse
import importlib
import json
import sys
import time
from pathlib import Path

from talker_t2av.common.media import data_dir, write_result

HERE = Path(__file__).parent
OUT = data_dir() / "results" / "benchmarks.json"


def main() -> int:
    names = sorted(file.stem.removeprefix("bench_") for file in HERE.glob("bench_*.py"))
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"which benchmarks (default: all of {', '.join(names)})",
    )
    chosen = parser.parse_args().names or names
    if unknown := sorted(set(chosen) - set(names)):
        parser.error(f"no benchmark called {', '.join(unknown)}; there are {', '.join(names)}")
    sys.path.insert(0, str(HERE))
    rows = json.loads(OUT.read_text())["values"] if OUT.exists() else {}
    for name in chosen:
        print(f"\n{name} ...", flush=True)
        start = time.perf_counter()
        rows[name] = importlib.import_module(f"bench_{name}").run()
        for row in rows[name]:
            print(
                f"  {row['name']:<58} {row['value']:>10.4g} {row['unit']:<14} {row.get('note', '')}"
            )
        print(f"  ({time.perf_counter() - start:.0f} s)")
    write_result(OUT, rows, "make bench")
    print(f"\nwritten: {OUT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
