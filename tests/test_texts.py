"""The texts in data/texts: what may be trained on, what is kept for evaluation, and the program
that makes the word lists.
"""

import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs"))

import word_lists  # noqa: E402
from prose import DEMO, DEMO_PARTS, is_for_training, reserved, runs, says_demo, spoken  # noqa: E402

from talker_t2av.training.latents import read_texts  # noqa: E402
from talker_t2av.world.sentences import (  # noqa: E402
    SENTENCE_SHARES,
    is_held_out,
    sentence_words,
    split_of_sentence,
)

TEXTS = ROOT / "data" / "texts"
TRAINING = ("everyday", "prose", "words")
LINES = {name: read_texts(TEXTS / f"{name}.txt") for name in (*TRAINING, "free", "short")}
PLAIN = re.compile(r"[A-Z][A-Za-z]*(?:'[a-z]+)?(?:[,;:.?!]? [A-Za-z]+(?:'[a-z]+)?)*'?[.?!]")


def header(name: str) -> str:
    """The comments at the beginning of a file."""
    text = (TEXTS / f"{name}.txt").read_text(encoding="utf-8")
    return re.match(r"(?:#.*\n)*", text)[0]


def test_there_is_enough_of_each():
    assert len(LINES["everyday"]) >= 1_200 and len(LINES["free"]) == 120
    assert len(LINES["short"]) == 60 and max(map(len, LINES["short"])) < 40
    assert len(LINES["prose"]) >= 2_000 and len(LINES["words"]) >= 7_500
    assert (TEXTS / "words.txt").stat().st_size < 400_000
    lengths = [len(text.split()) for text in LINES["everyday"]]
    assert min(lengths) == 1 and max(lengths) <= 21 and len(set(lengths)) > 15
    for split, share in SENTENCE_SHARES.items():  # evaluation lines are among them
        found = np.mean([split_of_sentence(text) == split for text in LINES["everyday"]])
        assert abs(found - share) < 0.03, split


@pytest.mark.parametrize("name", TRAINING)
def test_no_part_of_the_demo_is_trained_on(name):
    assert not [text for text in LINES[name] if says_demo(text)]


def test_what_counts_as_a_part_of_the_demo():
    assert says_demo(DEMO) and says_demo("Hello! I am a TALKING head, made of formulas.")
    assert {"a talking head", "head made of", "made of formulas", "am a talking"} < DEMO_PARTS
    for part in DEMO_PARTS:
        assert says_demo(f"They say {part} again.")
    for good in ("I am a teacher.", "It is made of wood.", "Formulas of heads.", "Hello, I am a."):
        assert not says_demo(good)


@pytest.mark.parametrize("name", TRAINING)
def test_evaluation_sentences_are_not_trained_on(name):
    kept = reserved()
    assert not [text for text in LINES[name] if not is_for_training(text, kept)]


def test_a_leak_would_be_found():
    kept = reserved()
    assert len(kept) > 300
    for text in LINES["free"] + LINES["short"]:
        assert not is_for_training(text.upper().replace(",", ""), kept)
        if len(text.split()) > 6:
            assert not is_for_training(f"Well, {' '.join(text.split()[1:6])} again.", kept)
    assert is_for_training("Nobody wrote this line down before now.", kept)
    assert runs("One, two; three!", 2) == {"one two", "two three"} and not runs("One.", 2)


@pytest.mark.parametrize("name", ("everyday", "free", "short", "words"))
def test_lines_are_plain(name):
    odd = [text for text in LINES[name] if not PLAIN.fullmatch(text)]
    assert not odd, odd[:9]


def test_the_plain_check_can_fail():
    for bad in ("It is 5.", "no capital.", "No end", "Two  spaces.", "A-B.", "Ok , no.", '"Yes."'):
        assert not PLAIN.fullmatch(bad), bad
    for good in ("Yes.", "I'm here; you aren't: why?", "One. Two. Three!"):
        assert PLAIN.fullmatch(good), good


def test_no_line_comes_twice():
    """Within one file no two lines of the same words; between files of training neither."""
    lines = [spoken(text) for name in LINES for text in LINES[name] if name != "prose"]
    twice = [text for text, n in Counter(lines).items() if n > 1]
    assert not twice, twice[:9]
    assert len(set(LINES["prose"])) == len(LINES["prose"])
    assert not set(map(spoken, LINES["words"])) & set(map(spoken, LINES["prose"]))
    assert not set(LINES["everyday"]) & set(LINES["prose"])


def test_headers_say_where_texts_come_from():
    assert "written for this book" in header("everyday")
    for name in ("free", "short"):
        assert "evaluation only" in header(name) and "written for this book" in header(name)
    for fact in ("wordfreq 3.1.1", "Robyn Speer", "CC BY-SA 4.0", "Changed"):
        assert fact in header("words"), fact
    assert "CC BY-SA 4.0" in (ROOT / "data" / "README.md").read_text(encoding="utf-8")


def test_the_word_file_says_many_words_often():
    said = Counter(word for text in LINES["words"] for word in re.findall(r"[a-z']+", text.lower()))
    assert len(said) >= 4_500
    rare = [word for word, n in said.items() if n < word_lists.TIMES]
    assert not rare, rare[:9]
    for number in word_lists.COUNTING:
        assert any(spoken(number) in runs(text, len(number.split())) for text in LINES["words"])
    unfit = word_lists.asked("unfit")
    assert len(unfit) > 50 and not said.keys() & unfit


FEW = (
    "river window Monday green apple thirteen don't I'm between quickly mother Norway horrible "
    "brother Vincent worst carpet yellow story tea shell lantern garage valley perhaps"
).split() + ["twenty one", "fifty six"]


def places(word: str, lines: list[str]) -> Counter:
    """How many lines of the right split say a word within a carrier, and how many without."""
    carriers = [
        re.compile(re.sub(r"\\{\w\\}", "[a-z' ]+?", re.escape(carrier)), re.IGNORECASE)
        for carrier in word_lists.CARRIERS
    ]
    right = "test_words" if any(map(is_held_out, sentence_words(word))) else "train"
    found = Counter()
    for text in lines:
        pieces = " " + " ".join(re.findall(r"[a-z']+", text.lower())) + " "
        if f" {word.lower()} " in pieces and split_of_sentence(text) == right:
            inside = any(carrier.fullmatch(text) for carrier in carriers)
            found["carrier" if inside else "list"] += 1
    return found


def test_each_word_is_said_as_promised():
    lines = word_lists.utterances(FEW)
    for word in FEW:
        found = places(word, lines)
        assert found["list"] >= 1 and found["carrier"] >= 1, word
        assert found.total() >= word_lists.TIMES, word
    unseen = [text for text in lines if split_of_sentence(text) == "test_words"]
    assert unseen and all(
        is_held_out(word) or not {word} & {w.lower() for w in FEW}
        for text in unseen
        for word in sentence_words(text)
    ), "unseen words keep to themselves"
    for text in lines:
        words = set(sentence_words(text))
        assert not words & {"horrible", "worst"} or not words & {"mother", "brother", "vincent"}


def test_the_same_words_give_the_same_lines():
    lines = word_lists.utterances(FEW)
    assert lines == word_lists.utterances(FEW) and lines != word_lists.utterances(FEW, seed=1)
    assert len({spoken(text) for text in lines}) == len(lines)


def test_lines_that_are_taken_or_kept_are_not_made():
    first = word_lists.utterances(FEW)
    taken, kept = first[:20], set(map(spoken, first[20:40]))
    again = set(map(spoken, word_lists.utterances(FEW, others=taken, unwanted=kept)))
    assert not again & (set(map(spoken, taken)) | kept)


def test_a_word_without_a_place_is_an_error():
    with pytest.raises(ValueError, match="no place"):
        word_lists.utterances(["talking head"])


def test_fit_words_are_chosen_and_spelled():
    found = word_lists.written(
        "the i'm paris to mr frank america's can't ain't qz 5th he's".split(), 7
    )
    assert found[:7] == ["the", "I'm", "Paris", "to", "frank", "can't", "he's"]
    assert {"ninety nine", "zero", "thousand", "second", "Monday", "Nepal"} < set(found)
    assert word_lists.written(["river", "window", "one"], 2)[:2] == ["river", "window"]
    assert not word_lists.is_plain("sexual") and not word_lists.is_plain("google")
