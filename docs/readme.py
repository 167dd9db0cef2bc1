"""The parts of README.md that are computed: what is there, contents, results, trainings.

Everything else in it is written by hand.

    python docs/readme.py            renews what stands between <!-- NAME --> and <!-- /NAME -->
    python docs/readme.py --check    says what it would change, and changes nothing
    python docs/readme.py --samples  lets the talker say five sentences, into data/samples, and
                                     makes the GIF at the top

Numbers come from data/results/*.json, which the measuring commands wrote, and from the files
themselves.
"""

import json
import math
import re
import struct
import subprocess
import sys
from pathlib import Path

import course

from talker_t2av.cli import COMMANDS
from talker_t2av.common.figures import notebook_of

ROOT = Path(__file__).resolve().parent.parent
README, RESULTS, SAMPLES = ROOT / "README.md", ROOT / "data" / "results", ROOT / "data" / "samples"
TABLE = json.loads(course.TABLE.read_text(encoding="utf-8"))
SAID = {  # file: what, voice, face
    "hello": ("Hello! I am a talking head, made of formulas.", "ada", 7),
    "garden": ("Did the old gardener bring the yellow flowers home?", "ben", 11),
    "boats": ("Seven small boats left the quiet harbour in the morning.", "sara", 3),
    "thanks": ("Thank you for reading this book.", "theo", 20),
    "tea": ("My brother never drinks cold tea before dinner.", "walt", 5),
}


def table(titles: list[str], rows: list[list]) -> str:
    return "\n".join(
        "| " + " | ".join(map(str, row)) + " |" for row in [titles, ["---"] * len(titles), *rows]
    )


def contents() -> str:
    """One row for each part: its notebooks with their titles, and hours."""
    books, rows = course.notebooks(), []
    path = course.main_path(TABLE, list(books))
    for folder, names in course.parts(list(books)).items():
        links = []
        for name in names:
            mark = f"{course.MAIN} " if name in path else ""
            number = f"[{course.label(name)}](nbs/{name}.ipynb)"
            links.append(f"{mark}{number} {course.short_title(books[name]['cells'])}")
        time = f"{course.hours(books, names):.1f} h"
        rows.append([course.part_title(folder), " · ".join(links), time])
    return f"{course.MAIN} marks the main path.\n\n" + table(["part", "notebooks", "to read"], rows)


def weights_of(file: Path) -> int:
    """How many numbers a safetensors file holds, from its header."""
    with open(file, "rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        header = json.loads(opened.read(length))
    header.pop("__metadata__", None)
    return sum(math.prod(entry["shape"]) for entry in header.values())


def today() -> str:
    """What exists, counted: notebooks, modules, commands, trained networks."""
    books, package = course.notebooks(), ROOT / "talker_t2av"
    folders = course.parts(list(books))
    modules = [path for path in package.rglob("*.py") if path.name[0] != "_"]
    files = sorted((ROOT / "data" / "small").glob("*/model.safetensors"))
    named = [f"{file.parent.name.replace('_', ' ')} {weights_of(file) / 1e6:.1f}" for file in files]
    total = sum(map(weights_of, files)) / 1e6
    absent = [course.part_title(folder) for folder in course.PARTS if folder not in folders]
    lines = [
        f"- {len(books)} notebooks in {len(folders)} parts export {len(modules)} modules and "
        f"{len(COMMANDS)} commands.",
        f"- {len(files)} trained networks come with the book, in millions of weights: "
        f"{', '.join(named)}; {total:.1f} together.",
    ]
    if absent:
        lines.append(f"- Planned parts without a notebook: {', '.join(absent)}.")
    return "\n".join(lines)


def heard() -> str:
    """The first numbers of the evaluation, in one sentence."""
    rows = result("evaluation")["values"]["table"]
    truth, talker = rows[0], next(row for row in rows if row["row"].startswith("talker"))

    def value(row: dict, start: str) -> str:
        return next(text for title, text in row.items() if title.startswith(start)).split(" ")[0]

    words, phonemes = value(talker, "word error"), value(talker, "phoneme error")
    lips = value(talker, "lip lag within one frame")
    return (
        f"*In sentences that nobody was trained on, a recogniser gets {words}% of the talker's "
        f"words wrong ({value(truth, 'word error')}% in the speech of the world that it learnt "
        f"from), and {phonemes}% of its phonemes. Lips and sound agree within one frame in {lips}% "
        "of the clips. [How it compares](#how-it-compares-and-what-it-does-not-claim) has all "
        "numbers.*"
    )


def result(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def parity_row(values: list) -> list:
    return [
        "every part of the model beside the released definition, same weights, same inputs",
        (
            f"largest difference {max(row['difference'] for row in values):.1e} in "
            f"{len(values)} comparisons"
        ),
    ]


def world_row(values: dict) -> list:
    text = (
        f"lips never more than {values['pixels_open_at_p_b_m_max']:.1f} pixels apart in "
        f"{values['p_b_m']} *p, b, m*; jaw and loudness agree best at a lag of "
        f"{values['jaw_energy_lag_frames']} frames"
    )
    return [f"the world, {values['clips']} clips: do lips and sound agree?", text]


def codec_rows(values: dict) -> list[list]:
    rows = []
    for split, who in {"test": "known voices", "test_voices": "8 unknown voices"}.items():
        parts = values[split]
        errors = ", ".join(
            f"{name} {percent(parts[key]['phoneme_error'])}"
            for name, key in {
                "through the codec": "codec",
                "original": "original",
                "linear codec": "pca",
            }.items()
        )
        text = (
            f"phoneme errors: {errors}; voiced or not wrong in "
            f"{percent(parts['codec']['voicing'])} of frames, pitch off by over a fifth in "
            f"{percent(parts['codec']['pitch_gross'])}"
        )
        rows.append([f"audio codec, {values['clips_each']} unheard clips, {who}", text])
    return rows


def speaker_row(values: dict) -> list:
    rates = [seed["2"]["eer"] for seed in values["held_out"]]
    return [
        f"speaker encoder, {len(values['voices'])} voices never heard, 2 s",
        f"equal error rate {percent(min(rates))} to {percent(max(rates))} ({len(rates)} seeds)",
    ]


def first_table(name: str) -> str:
    """A results file that holds a table of its own: `about`, one sentence, and `table`, rows with
    equal keys.

    Turned on its side: measures are rows.
    """
    record = result(name)
    rows = record["values"]["table"]
    measures = [title for title in rows[0] if title != "row"]
    return f"{record['values']['about']} ([{name}.json](data/results/{name}.json))\n\n" + table(
        ["", *(row["row"] for row in rows)],
        [[title, *(row[title] for row in rows)] for title in measures],
    )


def link_to(module: str) -> str:
    """The number of the notebook that exports a module, as a link from README.md."""
    name = notebook_of()[module]
    return f"[{course.label(name)}](nbs/{name}.ipynb)"


def results() -> str:
    """The first table of the evaluation; then what was measured on the parts."""
    blocks = [
        first_table("evaluation"),
        f"Unseen words, voices and faces, and clips of a minute: {link_to('evaluation.evaluate')}.",
    ]
    rows = []
    for name, make in {
        "parity": parity_row,
        "world_checks": world_row,
        "audio_codec": codec_rows,
        "speaker": speaker_row,
    }.items():
        record = result(name)
        made = make(record["values"])
        rows += [
            [*row, f"[{name}.json](data/results/{name}.json)"]
            for row in (made if isinstance(made[0], list) else [made])
        ]
    return "\n\n".join([*blocks, table(["what", "measured", "all of it"], rows)])


def training_seconds(values) -> float | None:
    """How long the training took, wherever its results say so."""
    if not isinstance(values, dict):
        return None
    for key in ("seconds", "seconds_this_run", "train_seconds"):
        if isinstance(values.get(key), (int, float)):
            return values[key]
    found = [training_seconds(value) for value in values.values()]
    return next((seconds for seconds in found if seconds is not None), None)


def took(records: list[dict]) -> list[str]:
    """Minutes and machine of some trainings, for the last two columns."""
    if not records:
        return ["no record", ""]
    seconds = [training_seconds(record["values"]) for record in records]
    machine = records[0]["machine"]
    threads = max(record["machine"]["threads"] for record in records)
    words = f"{machine['processor']}, {threads} thread{'s' if threads > 1 else ''}"
    words += f", {machine['gpu']}" if machine["gpu"] else ""
    if None in seconds:
        return ["not stored", words]
    return [f"{sum(seconds) / 60:.0f} min", words]


def trainings() -> str:
    """The commands that train, in the order in which they are needed, with minutes and machine
    where a stored result has them.
    """
    stored = [result(path.stem) for path in sorted(RESULTS.glob("*.json"))]
    stored = [
        record
        for record in stored
        if " train " in record["command"] and "--preset small " in record["command"]
    ]
    rows = []
    for name in COMMANDS:
        if not name.startswith(("train ", "latents")) or name == "train all":
            continue
        mine = [record for record in stored if f"talker-t2av {name} " in record["command"]]
        first = [record for record in mine if "--start" not in record["command"]]
        more = [record for record in mine if "--start" in record["command"]]
        folder = f"runs/{name.removeprefix('train ')}"
        words = {
            "latents": f"--out {folder}",
            "train talker": f"--preset small --data runs/latents --out {folder}",
        }.get(name, f"--preset small --out {folder}")
        time = took(first) if name.startswith("train ") else ["", ""]
        rows.append([f"`.venv/bin/talker-t2av {name} {words}`", COMMANDS[name][1], *time])
        if more:
            about = f"{len(more)} further lessons of the same network"
            rows.append(["the same with `--start`", about, *took(more)])
    return table(["command", "does", "took", "on"], rows)


BLOCKS = {
    "heard": heard,
    "today": today,
    "contents": contents,
    "results": results,
    "trainings": trainings,
}


def filled(text: str) -> str:
    """README.md with today's blocks. Raises ValueError when a mark is missing."""
    for name, make in BLOCKS.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.S)
        if not pattern.search(text):
            raise ValueError(f"README.md: has no <!-- {name} --> ... <!-- /{name} -->")
        made = make()
        text = pattern.sub(lambda found, made=made: f"{found[1]}{made}\n{found[2]}", text)
    return text


def samples() -> None:
    """The talker says five sentences, as mp4 with sound; the first one also
    as a small silent GIF.
    """
    import imageio_ffmpeg

    from talker_t2av import TalkerPipeline
    from talker_t2av.common.media import atomic_path

    SAMPLES.mkdir(parents=True, exist_ok=True)
    pipeline = TalkerPipeline.from_pretrained("small")
    for name, (text, voice, face) in SAID.items():
        print(pipeline(text, voice, face).save(SAMPLES / f"{name}.mp4").name, text)
    small = (
        "fps=12.5,scale=160:-1:flags=lanczos,split[a][b];[a]palettegen=max_colors=96[p];"
        "[b][p]paletteuse=dither=none"
    )
    with atomic_path(SAMPLES / "hello.gif") as temporary:
        subprocess.run(
            [
                imageio_ffmpeg.get_ffmpeg_exe(),
                "-v",
                "error",
                "-y",
                "-i",
                str(SAMPLES / "hello.mp4"),
                "-vf",
                small,
                "-f",
                "gif",
                str(temporary),
            ],
            check=True,
        )


def main(words: list[str]) -> int:
    if "--samples" in words:
        samples()
        return 0
    text = README.read_text(encoding="utf-8")
    fresh = filled(text)
    check = "--check" in words
    if fresh != text and not check:
        README.write_text(fresh, encoding="utf-8")
    if fresh == text:
        state = "is up to date"
    else:
        state = "is stale; run: python docs/readme.py" if check else "renewed"
    print(f"README.md: {state}")
    return int(check and fresh != text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
