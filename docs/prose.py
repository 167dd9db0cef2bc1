"""The book's own prose as sentences that can be read aloud: data/texts/prose.txt, for
`talker-t2av latents --texts`.

    python docs/prose.py

Takes the text cells of all notebooks and the README, without code, formulas, tables and headings,
and keeps sentences of four to sixteen plain words.
Left out: sentences with a word that only the split test_words may say, so that unseen words stay
unseen, and the sentences of data/samples.
The file is data of a training: renewing it is harmless, but a talker trained on another one is
another talker.
"""

import json
import re
from pathlib import Path

from course import NBS, notebooks, source
from readme import SAID

from talker_t2av.common.media import atomic_path
from talker_t2av.world.sentences import is_held_out, sentence_words

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "data" / "texts" / "prose.txt"
PLAIN = re.compile(r"[A-Za-z][A-Za-z' ,;:-]*[.!?]?")
# names from code, abbreviations, single letters
STRANGE = re.compile(r"[a-z][A-Z]|[A-Z]{2}|\b[b-hj-z]\b|--")


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
    kept = [sentence for sentence in found if not any(map(is_held_out, sentence_words(sentence)))]
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
