"""Single words, lists and carrier sentences: data/texts/words.txt, for
`talker-t2av latents --texts`.

    pip install wordfreq==3.1.1
    python docs/word_lists.py

Takes the most frequent English words of the package wordfreq, leaves out what docs/word_lists.txt
names (abbreviations, companies, what offends), writes names with a capital letter, and adds numbers
in words and some more names.
Every word is said at least three times, at least once without and once within a carrier sentence,
and all this in lines of the split train: lines of the other splits come on top.
Words that belong to the split test_words keep to lines of their own.
The same words and the same seed give the same lines.
"""

import functools
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import numpy as np
from prose import is_for_training, reserved, spoken

from talker_t2av.common.media import atomic_path
from talker_t2av.training.latents import read_texts
from talker_t2av.world.sentences import (
    is_held_out,
    read_sections,
    sentence_words,
    split_of_sentence,
)
from talker_t2av.world.voice.voices import PronunciationError, speak

ROOT = Path(__file__).resolve().parent.parent
TEXTS = ROOT / "data" / "texts"
OUT = TEXTS / "words.txt"
WORDFREQ = "3.1.1"
N_WORDS = 5_000  # of wordfreq
TIMES = 3  # how often each word is said at least
COMPANY = 8  # words that join the last few which are still to be placed
TURNS = 60  # at lists, carriers, lists, lists, ...; mostly ten are enough
HEADER = f"""\
# Frequent English words alone, in lists and in carrier sentences, made by docs/word_lists.py.
# Source of the words: wordfreq {WORDFREQ} by Robyn Speer, https://github.com/rspeer/wordfreq
# Licence of its data and of this file: CC BY-SA 4.0, https://creativecommons.org/licenses/by-sa/4.0
# Changed: its {N_WORDS:,} most frequent English words without abbreviations, fragments, company
# names and what offends; names with a capital letter; numbers in words and some names added; all
# of them put into short utterances of this book's own, in random order.
"""

# {a}, {b}, {c} stand for words; {A} for one that begins the sentence
CARRIERS = (
    "The next word is {a}.",
    "Say {a} again.",
    "Type {a} and {b}.",
    "Can you spell {a}?",
    "I heard {a}, not {b}.",
    "{A} comes after {b}.",
    "Please read {a} aloud.",
    "My word is {a}, and his is {b}.",
    "Did you say {a} or {b}?",
    "Underline {a}, {b} and {c}.",
    "Repeat after me: {a}.",
    "{A} is the last word on the page.",
    "Look for {a} and then for {b}.",
    "She put {a} on the board.",
    "First {a}, then {b}, then {c}.",
    "The word {a} is not hard to say.",
    "How do you say {a}?",
    "Change {a} into {b}.",
    "Between {a} and {b} stands {c}.",
    "Is it {a}?",
    "{A}, I said, not {b}!",
    "He said {a} instead of {b}.",
    "You will find {a} below {b} and {c}.",
    "What is another word for {a}?",
)
# without a carrier: (mark between the words, mark at the end, most words)
LISTS = (
    (", ", ".", 6),
    (", ", ".", 6),
    (". ", ".", 5),
    (". ", ".", 4),
    ("; ", ".", 4),
    (", ", "?", 2),
    ("? ", "?", 2),
    ("! ", "!", 2),
)
ALONE = 0.4  # share of the utterances without a carrier that are one word
END_MARKS = "....?!"  # of one word

TWO_LETTERS = frozenset(
    "ad ah am an as at be by do go he hi if in is it me my no of oh on or so to up us we".split()
)
CONTRACTIONS = re.compile(
    r"(?!ain)[a-z]+n't|[a-z]+'(m|re|ve|ll|d)|(it|that|he|she|there|what|let|here|who|where|how)'s"
)

UNITS = "zero one two three four five six seven eight nine".split()
TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
COUNTING = UNITS + TEENS + [f"{ten} {u}".removesuffix(" zero") for ten in TENS for u in UNITS]
ORDINALS = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth "
    "fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth thirtieth hundredth"
).split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = (
    "January February March April May June July August September October November December"
).split()
ADDED = (
    *("hundred", "thousand", "million", "billion", "dozen", "half", "quarter", "once", "twice"),
    *COUNTING,
    *ORDINALS,
    *DAYS,
    *MONTHS,
    # names that are less frequent
    *"Alice Clara Emily Hannah Helen Isaac Nadia Oliver Oscar Paula Sylvia Theo Ursula".split(),
    *"Vincent Walter Yvonne Zoe Vienna Lisbon Athens Prague Warsaw Oslo Helsinki Cairo".split(),
    *"Nairobi Delhi Bangkok Seoul Havana Lima Iceland Norway Portugal Hungary Morocco".split(),
    *"Kenya Nepal Vietnam Peru Chile Argentina Alps Danube Nile Thames Sahara".split(),
)
SERIES = (COUNTING, ORDINALS[:20], DAYS, MONTHS)  # said in order too
N_SERIES = 150  # lines that count, forward or backward


@functools.cache
def asked(name: str) -> frozenset[str]:
    """The words of a section of docs/word_lists.txt."""
    return frozenset(" ".join(read_sections(ROOT / "docs" / "word_lists.txt")[name]).split())


@functools.cache
def capitals() -> dict[str, str]:
    """How names are written: "martin" -> "Martin"."""
    lists = read_sections(ROOT / "data" / "words" / "names.txt").values()
    names = {name for lines in lists for name in " ".join(lines).split()}
    names |= {word.capitalize() for kind in ("name", "place", "other_name") for word in asked(kind)}
    return {name.lower(): name for name in names if name.lower() not in asked("both")}


def is_plain(word: str) -> bool:
    """Whether a word of wordfreq, in lower case, is fit to be said alone."""
    if "'" in word:
        return CONTRACTIONS.fullmatch(word) is not None
    if not re.fullmatch("[a-z]+", word):
        return False
    if len(word) <= 2:
        return word in {"a", "i"} or word in TWO_LETTERS
    return not any(word in asked(kind) for kind in ("fragment", "company", "unfit"))


def written(words: Iterable[str], n: int) -> list[str]:
    """The first `n` plain words, as they are spelled in a text, and those that are added."""
    names = capitals()
    kept = []
    for word in words:
        if len(kept) == n:
            break
        if is_plain(word):
            if word == "i" or word.startswith("i'"):
                word = word.capitalize()
            kept.append(names.get(word, word))
    return list(dict.fromkeys([*kept, *ADDED]))


def cap(text: str) -> str:
    """With a capital letter at the beginning."""
    return text[:1].upper() + text[1:]


def list_of(words: list[str], rng: np.random.Generator) -> str:
    """Words with marks between them, without a sentence around them."""
    if len(words) == 1:
        return cap(words[0]) + END_MARKS[rng.integers(len(END_MARKS))]
    fitting = [marks for marks in LISTS if marks[2] >= len(words)]
    between, end, _ = fitting[rng.integers(len(fitting))]
    if between in (", ", "; "):
        return cap(between.join(words)) + end
    return between.join(map(cap, words)) + end


def in_carrier(words: list[str], rng: np.random.Generator) -> str:
    """Words inside a carrier sentence for so many."""
    fitting = [carrier for carrier in CARRIERS if len(places_of(carrier)) == len(words)]
    carrier = fitting[rng.integers(len(fitting))]
    values = dict(zip("abc", words))
    return carrier.format(A=cap(words[0]), **values)


def places_of(carrier: str) -> list[str]:
    """The places for words in a carrier sentence."""
    return re.findall(r"\{(\w)\}", carrier)


def groups(words: list[str], form: str, rng: np.random.Generator) -> Iterator[list[str]]:
    """The words in random order, some for each utterance of a form ("list" or "carrier")."""
    order = [words[i] for i in rng.permutation(len(words))]
    while order:
        if form == "carrier":
            n = len(places_of(CARRIERS[rng.integers(len(CARRIERS))]))
        elif rng.random() < ALONE:
            n = 1
        else:
            n = int(rng.integers(2, 1 + LISTS[rng.integers(len(LISTS))][2]))
        yield order[:n]
        order = order[n:]


def is_decent(words: list[str]) -> bool:
    """Whether words may stand beside each other: nothing harsh beside somebody."""
    said = {word.lower() for word in words}
    return not (said & asked("harsh") and (said & asked("somebody") or said & capitals().keys()))


def utterances(
    words: Collection[str],  # as they are written
    seed: int = 0,
    others: Collection[str] = (),  # lines of other texts for training: none of them comes again
    unwanted: Collection[str] = (),  # what is kept for evaluation, see `reserved`
) -> list[str]:  # each line once, in random order
    """Lines that say each word `TIMES` times at least, once or more in each of both forms, in the
    split train (words of test_words: in that split).

    Raises ValueError if a word of a carrier belongs to test_words, or a word cannot be placed.
    """
    held = [word for carrier in CARRIERS for word in sentence_words(re.sub(r"\{\w\}", "", carrier))]
    if lost := sorted(filter(is_held_out, set(held))):
        raise ValueError(f"carriers say words that only test_words may say: {lost}")
    rng = np.random.default_rng(seed)
    kept_out = set(unwanted)
    lines, taken = [], {spoken(line) for line in others}

    def add(line: str) -> bool:
        """Keep a line that is new."""
        new = spoken(line) not in taken and is_for_training(line, kept_out)
        if new:
            taken.add(spoken(line))
            lines.append(line)
        return new

    for unseen in (False, True):
        pool = [word for word in words if any(map(is_held_out, sentence_words(word))) == unseen]
        counts = {"list": Counter(), "carrier": Counter()}
        for turn in range(TURNS):
            times = counts["list"] + counts["carrier"]
            form = "carrier" if turn % 3 == 1 else "list"
            lacking = [word for word in pool if not counts[form][word] or times[word] < TIMES]
            if 0 < len(lacking) < COMPANY:  # alone, a word would make the same line again and again
                company = [pool[i] for i in rng.permutation(len(pool))[:COMPANY]]
                lacking = list(dict.fromkeys(lacking + company))
            for group in groups(lacking, form, rng):
                if not is_decent(group):
                    continue
                line = list_of(group, rng) if form == "list" else in_carrier(group, rng)
                if add(line) and split_of_sentence(line) == ("test_words" if unseen else "train"):
                    counts[form].update(group)
        times = counts["list"] + counts["carrier"]
        fewest = {
            word: min(times[word] - TIMES, *(n[word] - 1 for n in counts.values())) for word in pool
        }
        if lost := [word for word in pool if fewest[word] < 0]:
            raise ValueError(f"no place was found for {lost[:9]}")
    for _ in range(N_SERIES):
        series = SERIES[rng.integers(len(SERIES))]
        n = int(rng.integers(3, 8))
        start = int(rng.integers(len(series) - n + 1))
        part = series[start : start + n]
        if rng.random() < 0.25:
            part = part[::-1]
        add(cap(", ".join(part)) + ".")
    return [lines[i] for i in rng.permutation(len(lines))]


def can_be_said(text: str) -> bool:
    """Whether the world's voice reads it."""
    try:
        speak(text, "ada")
    except PronunciationError:
        return False
    return True


def main() -> None:
    try:
        from wordfreq import top_n_list
    except ImportError:
        raise SystemExit(f"pip install wordfreq=={WORDFREQ}") from None
    words = [word for word in written(top_n_list("en", 2 * N_WORDS), N_WORDS) if can_be_said(word)]
    others = [line for name in ("everyday", "prose") for line in read_texts(TEXTS / f"{name}.txt")]
    lines = utterances(words, others=others, unwanted=reserved())
    kept = [line for line in lines if can_be_said(line)]
    with atomic_path(OUT) as temporary:
        temporary.write_text(HEADER + "\n".join(kept) + "\n", encoding="utf-8")
    print(f"{OUT.relative_to(ROOT)}: {len(kept):,} of {len(lines):,} lines, {len(words):,} words")


if __name__ == "__main__":
    main()
