"""Sentences: the word lists, the splits that never meet, and spelling."""

import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from talker_t2av.common.media import data_dir
from talker_t2av.world.sentences import (
    HELD_OUT_WORDS,
    MAX_WORDS,
    SENTENCE_SHARES,
    SPLITS,
    hash_share,
    invent_word,
    is_held_out,
    lexicon,
    read_sections,
    sample_sentence,
    sentence_words,
    split_of_sentence,
    split_words,
    tidy,
    with_ending,
)


@pytest.fixture(scope="module")
def drawn():
    """2,000 sentences of train and 300 of each other split."""
    return {
        split: [
            sample_sentence(np.random.default_rng([9, i]), split)
            for i in range(2_000 if split == "train" else 300)
        ]
        for split in SPLITS
    }


def test_enough_words():
    lex = lexicon()
    assert (
        len(
            {
                forms[""].lower()
                for lists in (lex.seen, lex.held_out)
                for entries in lists.values()
                for forms in entries
            }
        )
        >= 1_500
    )


def test_no_word_is_on_both_sides():
    lex = lexicon()
    in_use = {
        s.lower() for entries in lex.seen.values() for forms in entries for s in forms.values()
    }
    literals = {
        w
        for rules in lex.rules.values()
        for tokens in rules
        for literal, _, _ in tokens
        for w in sentence_words(literal)
    }
    assert not lex.unseen & (in_use | literals)
    held = sum(map(len, lex.held_out.values())) / (
        sum(map(len, lex.held_out.values())) + sum(map(len, lex.seen.values()))
    )
    assert abs(held - HELD_OUT_WORDS) < 0.02


def test_every_list_and_rule_is_reachable():
    """A list or rule that the grammar never asks for would be dead weight."""
    lex = lexicon()
    asked = {name for rules in lex.rules.values() for tokens in rules for _, name, _ in tokens} | {
        "sentence"
    }
    assert not (set(lex.rules) | set(lex.seen)) - asked


def test_splits_share_no_sentence(drawn):
    texts = {split: {" ".join(sentence_words(text)) for text in drawn[split]} for split in SPLITS}
    for i, a in enumerate(SPLITS):
        for b in SPLITS[i + 1 :]:
            assert not texts[a] & texts[b]


def test_held_out_words_are_said_in_test_words_only(drawn):
    unseen = {
        word for text in drawn["test_words"] for word in sentence_words(text) if is_held_out(word)
    }
    assert len(unseen & lexicon().unseen) > 50 and len(unseen - lexicon().known) > 50, (
        "real and invented ones"
    )
    assert all(
        any(is_held_out(word) for word in sentence_words(text)) for text in drawn["test_words"]
    )
    others = {
        word
        for split in SPLITS
        if split != "test_words"
        for text in drawn[split]
        for word in sentence_words(text)
    }
    assert not unseen & others
    stems = {re.sub("s$", "", word) for word in others if word not in lexicon().known}
    both = {re.sub("s$", "", word) for word in unseen - lexicon().known} & stems
    assert not both, f"not even their plurals: {both}"


def test_sentences_look_like_sentences(drawn):
    for text in (text for texts in drawn.values() for text in texts):
        assert (
            1 <= len(sentence_words(text)) <= MAX_WORDS and text[0].isupper() and text[-1] in ".?!"
        )
        assert not re.search(r"[^A-Za-z' .,?!]|\s\s|\s[.,?!]|\b[Aa] [aeio](?!ne|u)", text), text
    lengths = [len(sentence_words(text)) for text in drawn["train"]]
    assert 5 <= np.median(lengths) <= 9 and np.percentile(lengths, 95) <= 16
    words = [word for text in drawn["train"] for word in sentence_words(text)]
    invented = np.mean(
        [w not in lexicon().known and re.sub("s$", "", w) not in lexicon().known for w in words]
    )
    assert 0.10 <= invented <= 0.15


def test_split_shares_are_the_stated_ones(drawn):
    """Sentences of words in use, sorted by their hash alone, fall as stated (five
    standard deviations).
    """
    numbers = [forms[""] for name in ("digit", "teen", "tens") for forms in lexicon().seen[name]]
    texts = {f"{a} {b} {c}" for a in numbers for b in numbers for c in numbers}
    counts = {split: 0 for split in SENTENCE_SHARES}
    for text in texts:
        counts[split_of_sentence(text)] += 1
    for split, share in SENTENCE_SHARES.items():
        assert (
            abs(counts[split] / len(texts) - share) < 5 * (share * (1 - share) / len(texts)) ** 0.5
        )


def test_same_generator_same_sentence_in_a_fresh_process():
    code = (
        "import numpy as np; from talker_t2av.world.sentences import *; "
        "print(*[sample_sentence(np.random.default_rng(4), s) for s in SPLITS], sep='|')"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env={"PYTHONHASHSEED": seed},
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert outputs == {
        "|".join(sample_sentence(np.random.default_rng(4), s) for s in SPLITS) + "\n"
    }


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.booleans())
def test_invented_words(seed, held_out):
    word = invent_word(np.random.default_rng(seed), held_out)
    assert (
        re.fullmatch("[a-z]{3,16}", word) and word not in lexicon().known and not word.endswith("s")
    )
    assert (
        is_held_out(word) == is_held_out(word + "s") == is_held_out(word.capitalize()) == held_out
    )


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60))
def test_any_text_has_one_split(text):
    assert split_of_sentence(text) in SPLITS and split_of_sentence(text) == split_of_sentence(
        f"  {text}. "
    )


def test_words_with_two_jobs_come_back():
    word = next(w for w in map(str, range(1_000)) if hash_share(w, "word") < HELD_OUT_WORDS)
    assert split_words([{"": word, "past": "y"}], set()) == {word}
    assert split_words([{"": word, "past": "y"}], {"y"}) == set()


def test_spelling():
    assert [tidy(f"a {w}") for w in ("apple", "uniform", "hour", "useful x", "ugly x", "one")] == [
        "An apple",
        "A uniform",
        "An hour",
        "A useful x",
        "An ugly x",
        "A one",
    ]
    assert [with_ending(w, "ing") for w in ("make", "see", "stop", "fix", "begin*")] == [
        "making",
        "seeing",
        "stopping",
        "fixing",
        "beginning",
    ]


def test_bad_input(tmp_path):
    with pytest.raises(ValueError, match="tests"):
        sample_sentence(np.random.default_rng(0), "tests")
    with pytest.raises(FileNotFoundError, match="missing"):
        read_sections(tmp_path / "none.txt")
    (tmp_path / "x.txt").write_text("word before section\n")
    with pytest.raises(ValueError, match="x.txt:1"):
        read_sections(tmp_path / "x.txt")
    for file in (data_dir() / "words").glob("*.txt"):
        (tmp_path / file.name).write_text(file.read_text())
    (tmp_path / "grammar.txt").write_text("[sentence]\n{animal} eats {nonsense}.\n")
    with pytest.raises(ValueError, match="nonsense"):
        lexicon(tmp_path)
