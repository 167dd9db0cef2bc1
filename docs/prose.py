"""The book's own prose as sentences that can be read aloud: data/texts/prose.txt, for
`talker-t2av latents --texts`.

    python docs/prose.py

Takes the text cells of all notebooks and the README, without code, formulas, tables and headings,
and keeps sentences of four to sixteen plain words.
Left out: sentences with a word that only the split test_words may say, so that unseen words stay
unseen; the sentences of data/samples, and what says a part of the first of them; and what shares
five words in a row with a line of data/texts/free.txt or short.txt, which are for evaluation only.
The file is data of a training: renewing it is harmless, but a talker trained on another one is
another talker.
"""

import json
import re
from pathlib import Path

from course import NBS, notebooks, source
from readme import SAID

from talker_t2av.common.media import atomic_path
from talker_t2av.training.latents import read_texts
from talker_t2av.world.sentences import is_held_out, sentence_words

ROOT = Path(__file__).resolve().parent.parent
TEXTS = ROOT / "data" / "texts"
OUT = TEXTS / "prose.txt"
PLAIN = re.compile(r"[A-Za-z][A-Za-z' ,;:-]*[.!?]?")
# names from code, abbreviations, single letters
STRANGE = re.compile(r"[a-z][A-Z]|[A-Z]{2}|\b[b-hj-z]\b|--")

# the sentence that the README shows first; a part of it holds a word that only it is likely to say
DEMO = "Hello, I am a talking head made of formulas."
DEMO_WORDS = {"talking", "head", "made", "formulas"}


def spoken(text: str) -> str:
    """Its words alone: two texts that sound alike but for pauses are one."""
    return " ".join(re.findall(r"[a-z]+(?:'[a-z]+)*", text.lower()))


def runs(text: str, n: int) -> set[str]:
    """All runs of `n` words of a text."""
    words = spoken(text).split()
    return {" ".join(words[i : i + n]) for i in range(len(words) - n + 1)}


DEMO_PARTS = {part for part in runs(DEMO, 3) if DEMO_WORDS & set(part.split())} | {"talking head"}


def says_demo(text: str) -> bool:
    """Whether a text says the demo sentence or a part of it."""
    return not DEMO_PARTS.isdisjoint(runs(text, 2) | runs(text, 3))


def without_marks(text: str) -> str:
    """Markdown as plain text: no code, tables or headings; links keep their words."""
    for mark in (r"(?s)```.*?```", r"(?m)^\s*\|.*$", r"(?m)^#.*$", r"<[^>]+>"):
        text = re.sub(mark, "", text)
    return re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text).replace("*", "").replace("> ", "")


def sentences_of(text: str) -> list[str]:
    """Its plain sentences."""
    found = []
    for paragraph in re.split(r"\n\s*\n|\n\s*(?:[-*]|\d+\.)\s", without_marks(text)):
        for sentence in re.split(r"(?<=[.!?:;])\s+", re.sub(r"\s+", " ", paragraph)):
            sentence = re.sub(r"[“”\"()]", "", sentence.strip(" -–:;,()\"'"))
            if (
                PLAIN.fullmatch(sentence)
                and 4 <= len(sentence.split()) <= 16
                and not STRANGE.search(sentence)
            ):
                found.append(
                    sentence[0].upper() + sentence[1:] + ("" if sentence[-1] in ".!?" else ".")
                )
    return found


def reserved() -> set[str]:
    """What no training text may say: lines for evaluation only, and their runs of five words."""
    kept = [text for name in ("free", "short") for text in read_texts(TEXTS / f"{name}.txt")]
    return set(map(spoken, kept)).union(*(runs(text, 5) for text in kept))


def is_for_training(text: str, unwanted: set[str]) -> bool:
    """Whether a talker may be trained on a text: no part of the demo, nothing that is reserved."""
    return not says_demo(text) and unwanted.isdisjoint({spoken(text)} | runs(text, 5))


def main() -> None:
    texts = [(ROOT / "README.md").read_text(encoding="utf-8")]
    index = json.loads((NBS / "index.ipynb").read_text(encoding="utf-8"))
    texts += [
        source(cell)
        for notebook in [index, *notebooks().values()]
        for cell in notebook["cells"]
        if cell["cell_type"] == "markdown"
    ]
    found = sorted(
        {sentence for text in texts for sentence in sentences_of(text)}
        - {text for text, _, _ in SAID.values()}
    )
    unwanted = reserved()
    kept = [
        sentence
        for sentence in found
        if is_for_training(sentence, unwanted)
        and not any(map(is_held_out, sentence_words(sentence)))
    ]
    with atomic_path(OUT) as temporary:
        temporary.write_text(
            "# Sentences of this book, found by docs/prose.py.\n" + "\n".join(kept) + "\n",
            encoding="utf-8",
        )
    words = {word for sentence in kept for word in sentence_words(sentence)}
    print(
        f"{OUT.relative_to(ROOT)}: {len(kept):,} of {len(found):,} sentences, {len(words):,} words"
    )


if __name__ == "__main__":
    main()
