"""Solutions of 4.3."""


def letter_times(text, words):
    times = [None] * len(text)
    at = 0
    for word, start, end in words:
        first = text.index(word, at)
        at = first + len(word)
        length = (end - start) / len(word)
        for i in range(len(word)):
            times[first + i] = (start + i * length, start + (i + 1) * length)
    return times


def finds_the_first_of_two(text, words):
    times = [None] * len(text)
    for word, start, end in words:
        first, length = text.index(word), (end - start) / len(word)
        for i in range(len(word)):
            times[first + i] = (start + i * length, start + (i + 1) * length)
    return times


def gives_each_letter_the_whole_word(text, words):
    times, at = [None] * len(text), 0
    for word, start, end in words:
        first = text.index(word, at)
        at = first + len(word)
        times[first:at] = [(start, end)] * len(word)
    return times


def leaves_signs_out(text, words):
    return [time for time in letter_times(text, words) if time]


def divides_the_whole_text(text, words):
    start, end = words[0][1], words[-1][2]
    length = (end - start) / len(text)
    return [(start + i * length, start + (i + 1) * length) for i in range(len(text))]


def share_on_spoken(attention, near):
    looked = (attention * near).sum(1)  # (L,)
    spoken = near.any(1)  # (L,)
    return looked[spoken].mean()


def counts_pauses(attention, near):
    return (attention * near).sum(1).mean()


def takes_the_mean_of_all_letters(attention, near):
    return attention[near].mean()


def fills_rows_up_to_one(attention, near):
    return share_on_spoken(attention / attention.sum(1, keepdim=True), near)


WRONG = {
    "letter_times": [
        finds_the_first_of_two,
        gives_each_letter_the_whole_word,
        leaves_signs_out,
        divides_the_whole_text,
    ],
    "share_on_spoken": [counts_pauses, takes_the_mean_of_all_letters, fills_rows_up_to_one],
}
