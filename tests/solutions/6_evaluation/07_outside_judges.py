"""Solutions of 6.7."""

import jiwer

from talker_t2av.evaluation.outside import plain_words


def words_left_out(text, heard):
    said, guess = plain_words(text), plain_words(heard)
    found = jiwer.process_words(" ".join(said), " ".join(guess))
    return [
        word
        for chunk in found.alignments[0]
        if chunk.type == "delete"
        for word in said[chunk.ref_start_idx : chunk.ref_end_idx]
    ]


def takes_words_that_were_not_heard(text, heard):
    guess = plain_words(heard)
    return [word for word in plain_words(text) if word not in guess]


def counts_replaced_words_too(text, heard):
    said, guess = plain_words(text), plain_words(heard)
    found = jiwer.process_words(" ".join(said), " ".join(guess))
    return [
        word
        for chunk in found.alignments[0]
        if chunk.type != "equal"
        for word in said[chunk.ref_start_idx : chunk.ref_end_idx]
    ]


def takes_what_is_too_much(text, heard):
    return words_left_out(heard, text)


WRONG = {
    "words_left_out": [
        takes_words_that_were_not_heard,
        counts_replaced_words_too,
        takes_what_is_too_much,
    ]
}
