"""One name for one idea: words that the book has given up, claims that are no longer true, and
names in the prose of things that do not exist.

`python tests/test_words.py` lists what is left, file by file.
"""

import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs"))

import course  # noqa: E402

from talker_t2av.cli import COMMANDS  # noqa: E402

ALL, PROSE, CODE = {"prose", "code"}, {"prose"}, {"code"}
RETIRED = [  # (what may not be written, where, what to write instead)
    (r"\b(\d+|many|more|few|fewer|number of) looks\b(?! \w+less| like| at)", ALL, "NFE"),
    (r"\blooks at the velocity\b|[\"']looks[\"'] ?:|\bper look\b", ALL, "NFE"),
    (r"[\"'`*]halves[\"'`*]|[\"'`*]adjacent[\"'`*]|\badjacent (rotary|pairs)", ALL, "rotate_half"),
    (r"[`*]history[`*]|\b(no|its|as|and) history\b", ALL, "previous patch"),
    (r"\bhistory_(?!drop_rate)\w+", ALL, "previous patch"),
    (r"\bthe bend\b|\bbend\(states|[\"'`]bend[\"'`]", ALL, "straightness"),
    (r"(?-i:[a-z]_named[\"'_])|[\"'`]named[\"'`]", ALL, "phoneme accuracy"),
    (r"\bends well\b|\bends_well\b", ALL, "stop accuracy"),
    (r"\bintact\b", ALL, "no word lost or inserted"),
    (r"\b(in|out of)[ _]step\b(?! \d| \*|\)\)|\.\w)", ALL, "within one frame, or without lead"),
    (r"\brulers?\b|\bgauges?\b|(?<!drink )\binstruments?\b", ALL, "metric"),
    (r"\broughen\w*|\banother[ _]camera\b", ALL, "augment"),
    (r"\b(the|no) second questions?\b|\bsecond_questions?\b", ALL, "auxiliary loss"),
    (r"(?<!standard )(?<!absolute )(?<!mean )\bdeviations?\b", PROSE, "standard deviation"),
    (r"\b(log-)?mel[ -]pictures?\b|\bsound pictures?\b|\bmel_pictures?\b", ALL, "spectrogram"),
    (r"\bpictures? of (the |a )?(sound|voice|speech)\b", ALL, "spectrogram"),
    (r"\bstrangers?\b", ALL, "unseen speaker, unseen person"),
    (r"\bcrowds\b|\bcrowd of (pictures|clips|sounds|faces|features)\b", ALL, "distribution, set"),
    (r"\bpromises\(|\b(the|five|all) promises\b", ALL, "what is checked or guaranteed"),
    (r"\bdice\b", ALL, "random draw, seed"),
    (r"\blikeness\b", ALL, "similarity"),
    (r"\bdearest\b", ALL, "most important"),
    (r"\btakes? orders\b|\btaking orders\b", ALL, "is modulated by"),
    (r"\bbook's ears?\b|\b(second|two|third|outside) ears?\b|\bears and eyes\b", ALL, "encoder"),
    (r"\bear for\b|\bhas ears\b", ALL, "encoder, recogniser"),
]
# Status is generated from what exists: prose never says that a part is still missing.
STATE = "(written|trained|built|measured|made|there|included|available|shipped|stored)"
CLAIMS = [
    f"not {STATE} yet",
    f"not yet {STATE}",
    rf"\byet to be {STATE}\b",
    r"\b(do|does) not come with (the|this) book\b|\bnot come with the book yet\b",
    r"\bdoes not (talk|speak|exist) yet\b|\bso far\.\*\*",
    r"\bwill (be written|be added|come later|load the authors)\b",
    r"\bnot run yet\b",
]


def cells_of(path: Path):
    """("prose" or "code", place, text) of a notebook; hidden course cells are computed, so their
    source, docs/course.json, is searched instead.
    """
    for i, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
        text = "".join(cell["source"])
        if not text.startswith((*course.MARKS, course.CONTENTS)):
            kind = "prose" if cell["cell_type"] == "markdown" else "code"
            yield kind, f"{path.relative_to(ROOT)} [{i}]", text


def texts() -> list[tuple[str, str, str]]:
    """Everything that somebody wrote: notebooks, pages, programs that are not exported."""
    found = []
    for path in sorted((ROOT / "nbs").rglob("*.ipynb")):
        if ".ipynb_checkpoints" not in path.parts:
            found += cells_of(path)
    pages = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "data/README.md", "docs/first_hour.md"]
    pages += ["docs/course.json", "Makefile", "settings.ini"]
    found += [("prose", page, (ROOT / page).read_text(encoding="utf-8")) for page in pages]
    for folder in ("talker_t2av", "benchmarks", "docs"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path.name != "_modidx.py":
                found.append(
                    ("code", str(path.relative_to(ROOT)), path.read_text(encoding="utf-8"))
                )
    return found


def without_blocks(text: str) -> str:
    """README's computed blocks come from elsewhere; quoted commands of old records too."""
    return re.sub(r"<!-- (\w+) -->\n.*?<!-- /\1 -->", "", text, flags=re.S)


def hits(pattern: str, kinds=ALL, only_nbs: bool = False) -> list[str]:
    """place: ...words around the hit..."""
    found = []
    for kind, place, text in WRITTEN:
        if kind not in kinds or only_nbs and place.startswith("talker_t2av"):
            continue
        for hit in re.finditer(pattern, text, flags=re.I):
            around = text[max(0, hit.start() - 30) : hit.end() + 30].replace("\n", " ")
            found.append(f"{place}: ...{around}...")
    return found


TEXTS = texts()
WRITTEN = [(kind, place, without_blocks(text)) for kind, place, text in TEXTS]


@pytest.mark.parametrize("pattern, kinds, instead", RETIRED, ids=[row[2] for row in RETIRED])
def test_retired_words_are_gone(pattern, kinds, instead):
    found = hits(pattern, kinds)
    assert not found, f"write {instead!r}:\n" + "\n".join(found)


def keys_of(value) -> set[str]:
    """The keys of a stored result, however deep, without those of the machine."""
    if isinstance(value, dict):
        return set(value) | {key for inside in value.values() for key in keys_of(inside)}
    return (
        {key for inside in value for key in keys_of(inside)} if isinstance(value, list) else set()
    )


def test_stored_results_use_the_same_words():
    """Keys in data/results are names too; the settings that a run was started with are as they
    were.
    """
    words = re.compile(
        r"looks|intact|ends_well|named|history|gauge|ruler|instrument|stranger|crowd|dearest"
        r"|likeness|(?<!std_)(?<!standard_)deviation|in step|in_step"
    )
    lost = {}
    for path in sorted((ROOT / "data" / "results").glob("*.json")):
        keys = keys_of(json.loads(path.read_text(encoding="utf-8"))["values"])
        if found := sorted(k for k in keys if words.search(k) and not k.startswith("config.")):
            lost[path.name] = found
    assert not lost, lost


@pytest.mark.parametrize("pattern", CLAIMS)
def test_nothing_is_said_to_be_missing(pattern):
    """What exists is listed from the files; no sentence says that a part is not there yet."""
    found = hits(pattern, PROSE)
    assert not found, "\n".join(found)


LABELS = {course.label(name) for name in course.notebooks()}
RULES = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))


def lost_names(text: str) -> list[str]:
    """Notebooks, commands, files and modules that a text names and that do not exist."""
    plain = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    lost = []
    numbers = re.findall(r"\[([\dW]\.\d{1,2})\]|\bnotebooks? ([\dW]\.\d{1,2})\b", plain)
    numbers = [first or second for first, second in numbers]
    for group in re.findall(r"\[((?:[\dW]\.\d{1,2}(?:, | to | and )?)+)\]", plain):
        numbers += re.findall(r"[\dW]\.\d{1,2}", group)
    lost += [f"notebook {number}" for number in numbers if number not in LABELS]
    lost += [f"notebook {old}" for old in re.findall(r"\bnotebooks? (\d{1,2}[a-i])\b", plain)]
    for code in re.findall(r"`([^`\n]+)`", plain):
        if call := re.search(r"(?:^|/)talker-t2av ([a-z][a-z-]*(?: [a-z][a-z-]*)?)", code):
            words = call[1].split()
            named = [words[0], " ".join(words[:2])]
            known = {name for command in COMMANDS for name in (command, command.split()[0])}
            lost += [f"command {call[1]}"] if not known & set(named) else []
        if rule := re.match(r"make ([a-z]+)", code):
            lost += [f"make {rule[1]}"] if rule[1] not in RULES else []
        if re.fullmatch(r"(data|docs|nbs|tests|talker_t2av|benchmarks)/[\w./*-]+", code):
            made = code.startswith("docs/_") or re.search("[A-Z]{3}", code)  # a placeholder
            lost += [] if made or list(ROOT.glob(code.rstrip("/") + "*")) else [code]
        if module := re.fullmatch(r"talker_t2av((?:\.[a-z_]+)+)", code):
            place = ROOT / "talker_t2av" / module[1][1:].replace(".", "/")
            lost += [] if place.is_dir() or place.with_suffix(".py").is_file() else [code]
    return lost


def test_what_prose_names_exists():
    """Numbers of notebooks, commands, rules of the Makefile, files and modules."""
    found = []
    for kind, place, text in TEXTS:
        if kind == "prose" and not place.endswith((".json", ".ini", "Makefile")):
            found += [f"{place}: {name}" for name in lost_names(text)]
    assert not found, "\n".join(found)


def test_the_checks_can_fail():
    text = "See [9.9](x.ipynb), `talker-t2av fly`, `make gold`, `docs/nothing.md`, notebook 12b."
    assert lost_names(text) == [
        "notebook 9.9",
        "notebook 9.9",
        "notebook 12b",
        "command fly",
        "make gold",
        "docs/nothing.md",
    ]
    good = "See [1.1](x.ipynb), `talker-t2av train talker`, `make test`, `docs/course.py`, 3.5 dB."
    assert lost_names(good) == []
    bad = {
        "NFE": "with 8 looks",
        "metric": "our ruler",
        "previous patch": "`history`",
        "phoneme accuracy": '"tts_named_right"',
        "unseen speaker, unseen person": "Strangers",
        "standard deviation": "mean and deviation",
    }
    for pattern, _, instead in RETIRED:
        if instead in bad:
            assert re.search(pattern, bad.pop(instead), flags=re.I), instead
            assert not re.search(
                pattern,
                "it looks at both halves, named in the git history, one standard deviation apart",
                flags=re.I,
            ), instead
    assert not bad


if __name__ == "__main__":
    for pattern, kinds, instead in RETIRED:
        print(f"\n## write {instead!r}", *hits(pattern, kinds, only_nbs=True), sep="\n  ")
    for pattern in CLAIMS:
        print(f"\n## claims: {pattern}", *hits(pattern, PROSE), sep="\n  ")
