"""The voice: contracts of `speak` that no single notebook cell can show (processes, many
sentences, bad input).
"""

import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from talker_t2av.world.voice import espeak as box
from talker_t2av.world.voice.voices import (
    FUNCTION_WORDS,
    MARGIN,
    PHONEMES,
    SILENCE,
    VOICES,
    VOWELS,
    PronunciationError,
    Utterance,
    Voice,
    plan_phrases,
    speak,
    voice_names,
)

JOBS = [
    ("Good morning, my friend.", "ada", 0),
    ("Where is the box of tea?", "theo", 3),
    ("She has 42 hats.", "lily", 5),
    ("Up!", "ross", 1),
]


def fingerprint(job) -> str:
    text, voice, seed = job
    utterance = speak(text, voice, variation=1.0, seed=seed)
    rest = json.dumps([utterance.phonemes, utterance.words])
    return hashlib.sha256(utterance.wav.tobytes() + rest.encode()).hexdigest()


def check_contract(utterance: Utterance) -> None:
    wav, phonemes = utterance.wav, utterance.phonemes
    assert wav.dtype == np.float32 and wav.ndim == 1 and len(wav) % 3840 == 0
    assert np.abs(wav).max() <= box.PEAK + 1e-4
    assert np.array_equal(wav * 32768, np.rint(wav * 32768))  # on the 16-bit grid
    assert utterance.n_frames % 4 == 0 and utterance.n_frames * 960 == len(wav)
    assert phonemes[0].start == 0 and phonemes[-1].end == pytest.approx(
        utterance.duration, abs=1e-9
    )
    assert phonemes[0].symbol == phonemes[-1].symbol == SILENCE
    for before, after in zip(phonemes, phonemes[1:]):
        assert before.end == after.start and before.end > before.start
        assert SILENCE not in (before.symbol, after.symbol) or before.symbol != after.symbol
    assert {p.symbol for p in phonemes} <= set(PHONEMES)
    assert all(p.stress == 0 or p.symbol in VOWELS or p.symbol in ("n̩", "əl") for p in phonemes)
    loud = np.flatnonzero(np.abs(wav) > 5e-3) / 24_000
    assert loud[0] >= MARGIN - 0.002 and loud[0] < MARGIN + 0.06
    assert MARGIN - 0.002 <= utterance.duration - loud[-1] < MARGIN + 0.16 + 0.06
    assert phonemes[-1].end - phonemes[-1].start >= MARGIN - 1e-9
    for before, after in zip(utterance.words, utterance.words[1:]):
        assert before.start < before.end <= after.start


@pytest.mark.parametrize("name", VOICES)
def test_every_voice_keeps_the_contract(name):
    utterance = speak(
        "Peter kept the judge's measure, though she thinks we go.",
        name,
        variation=1.0,
        seed=len(name),
    )
    check_contract(utterance)
    assert [
        w.text for w in utterance.words
    ] == "Peter kept the judge's measure though she thinks we go".split()
    assert utterance.voice == name and VOICES[name].name == name


def test_speakers_and_split():
    train, held_out = voice_names("train"), voice_names("held-out")
    assert len(VOICES) >= 32 and len(train) >= 24 and len(held_out) >= 6
    assert sorted(train + held_out) == voice_names() == sorted(VOICES)
    waves = {hashlib.sha256(speak("One two.", name).wav.tobytes()).hexdigest() for name in VOICES}
    assert len(waves) == len(VOICES)
    with pytest.raises(ValueError, match="train"):
        voice_names("test")


def test_same_arguments_same_bytes_whatever_came_before():
    alone = [fingerprint(job) for job in JOBS]
    assert [fingerprint(job) for job in reversed(JOBS)] == alone[::-1]
    for job, expected in zip(JOBS, alone):
        speak("Something else!", "walt", rate=1.5, pitch=0.8)
        assert fingerprint(job) == expected


def test_same_bytes_in_a_fresh_process():
    code = (
        "import hashlib; from talker_t2av.world.voice.voices import speak; "
        "print(*[hashlib.sha256(speak(t, v, variation=1.0, seed=s).wav.tobytes()).hexdigest() "
        "for t, v, s in JOBS])"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"JOBS = {JOBS[::-1]!r}; {code}"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": "77"},
    )
    expected = [
        hashlib.sha256(speak(text, voice, variation=1.0, seed=seed).wav.tobytes()).hexdigest()
        for text, voice, seed in JOBS[::-1]
    ]
    assert done.stdout.split() == expected, done.stderr


def test_threads_and_a_fork_amid_them():
    expected = [fingerprint(job) for job in JOBS]
    wrong = []

    def work():
        for _ in range(3):
            if [fingerprint(job) for job in JOBS] != expected:
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    if "fork" in multiprocessing.get_all_start_methods():
        with multiprocessing.get_context("fork").Pool(2) as pool:
            assert pool.map_async(fingerprint, JOBS * 2).get(timeout=60) == expected * 2
    for thread in threads:
        thread.join(timeout=60)
    assert not wrong


class Spoken(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return torch.from_numpy(
            speak("Seven boats.", voice_names()[index], variation=1.0, seed=index).wav
        ).sum()


def test_dataloader_workers_agree_with_the_main_process():
    sums = [
        [float(x) for x in torch.utils.data.DataLoader(Spoken(), batch_size=1, num_workers=workers)]
        for workers in (0, 2)
    ]
    assert sums[0] == sums[1]


def test_variation_is_a_knob():
    text = "When the rain had stopped, seven small boats left the quiet harbour."
    fixed = {len(speak(text, "ben", seed=seed).wav) for seed in range(3)}
    assert len(fixed) == 1 and np.array_equal(
        speak(text, "ben", seed=1).wav, speak(text, "ben", seed=2).wav
    )
    spread = []
    for variation in (0.3, 1.0):
        ends = [
            speak(text, "ben", variation=variation, seed=seed).words[-1].end for seed in range(8)
        ]
        spread.append(np.std(ends))
    assert 0 < spread[0] < spread[1]
    symbols = {
        tuple(
            p.symbol
            for p in speak(text, "ben", variation=v, seed=s).phonemes
            if p.symbol != SILENCE
        )
        for v in (0.0, 1.0)
        for s in range(4)
    }
    # timing changes, the words do not
    assert len({s[0] for s in symbols}) == 1 and len({len(s) for s in symbols}) <= 3


def test_phrases_cover_the_text_in_order():
    text = "Mr. Smith paid 3.5 pounds, then left; did he? ... Yes! And so on"
    for variation in (0.0, 1.0):
        plan = plan_phrases(text, VOICES["ada"], variation=variation, seed=4)
        letters = [c for p in plan for c in p.text if c.isalnum()]
        assert letters == [c for c in text if c.isalnum()]
        assert all(text[p.offset :].startswith(p.text.rstrip(",")) for p in plan)
        assert "Mr." not in [p.text for p in plan]


def test_words_as_written():
    words = speak("“Of course,” said Mr. O'Neill — twenty-one of the 1,042 cafés don’t open!").words
    assert [w.text for w in words] == [
        "Of",
        "course",
        "said",
        "Mr",
        "O'Neill",
        "twenty-one",
        "of",
        "the",
        "1,042",
        "cafés",
        "don’t",
        "open",
    ]
    assert [w.text for w in words if not w.stressed] == ["Of", "of", "the", "don’t"]
    assert "the" in FUNCTION_WORDS and all(w == w.lower() for w in FUNCTION_WORDS)


def test_a_stop_begins_with_its_closure():
    """Where a voiceless stop follows a vowel, its first 20 ms are silent, in every voice
    (espeak-ng's own event comes after them).
    """
    for name in VOICES:
        utterance = speak("A copy, a duty, a puppy, a cookie.", name)
        stops = [
            p
            for before, p in zip(utterance.phonemes, utterance.phonemes[1:])
            if p.symbol in ("p", "k") and before.symbol in VOWELS
        ]
        assert len(stops) >= 3
        for stop in stops:
            start = round(stop.start * 24_000)
            assert np.abs(utterance.wav[start + 48 : start + 480]).max() < 0.01, (name, stop)


def test_pauses_are_silent_and_sounds_are_not():
    for seed in range(12):
        utterance = speak(
            "Put a pot of tea on the table, then go; see all of it.",
            voice_names()[3 * seed],
            variation=1.0,
            seed=seed,
        )
        for p in utterance.phonemes:
            wav = utterance.wav[round(p.start * 24_000) : round(p.end * 24_000)]
            assert (
                (np.abs(wav[240:-48]).max() < 0.01)
                if p.symbol == SILENCE
                else (np.abs(wav).max() > 0.002)
            ), (utterance.voice, p)


@pytest.mark.parametrize(
    "text", ["", "  \n", "😀", "?!...", "\x00", "你好", "Привет", "٣", "a" * 1001, "👍🏽 ♥"]
)
def test_text_that_cannot_be_spoken(text):
    with pytest.raises(PronunciationError, match="text: "):
        speak(text)


@pytest.mark.parametrize(
    "kwargs, kind, words",
    [
        ({"voice": "adda"}, ValueError, "ada"),
        ({"voice": ""}, ValueError, "voice_names"),
        ({"voice": 3}, TypeError, "voice"),
        ({"rate": 0.5}, ValueError, "rate: takes 0.6 to 1.8, got 0.5"),
        ({"rate": float("nan")}, ValueError, "rate"),
        ({"rate": "fast"}, TypeError, "rate"),
        ({"pitch": 2}, ValueError, "pitch: takes 0.75 to 1.5"),
        ({"variation": 1.1}, ValueError, "variation: takes 0.0 to 1.0"),
        ({"variation": True}, TypeError, "variation"),
        ({"seed": -1}, ValueError, "seed"),
        ({"seed": 1.5}, ValueError, "seed"),
        ({"voice": Voice("x", "en-mars", "f1", 170, 50, 50)}, ValueError, "language"),
        ({"voice": Voice("x", "en-us", "nobody", 170, 50, 50)}, ValueError, "variant"),
    ],
)
def test_arguments_that_are_refused(kwargs, kind, words):
    with pytest.raises(kind, match=words):
        speak("Hello.", **kwargs)
    check_contract(speak("Hello."))  # and the voice box still works


def test_emoji_beside_words_is_not_read():
    assert np.array_equal(speak("Hello 😀 there").wav, speak("Hello   there").wav)


def test_longest_text_and_every_rate():
    check_contract(speak(("go on " * 167)[:1000], rate=1.8))
    lengths = [
        speak("Seven small boats left.", rate=rate).words[-1].end for rate in (0.6, 1.0, 1.8)
    ]
    assert lengths[0] > lengths[1] > lengths[2]


def test_another_language_by_the_same_interface():
    utterance = speak(
        "你好，很高兴认识你。", Voice("mei", "cmn", "f1", 170, 50, 60), variation=1.0, seed=2
    )
    assert (
        len(utterance.phonemes) > 10 and len(utterance.wav) % 3840 == 0 and utterance.voice == "mei"
    )


@settings(max_examples=40, deadline=None)
@given(
    st.text(
        alphabet="abcdefghijklmnopqrstuvwxyzABCÉñ0123456789 .,;:!?'\"-–…$%&()<>[]",
        min_size=1,
        max_size=40,
    ),
    st.sampled_from(voice_names()),
    st.integers(0, 99),
)
def test_any_text_is_spoken_or_refused(text, voice, seed):
    try:
        utterance = speak(text, voice, variation=1.0, seed=seed)
    except PronunciationError as error:
        assert not any(c.isalnum() for c in text), error
        return
    check_contract(utterance)


def test_resampling_keeps_time_zero():
    from scipy.signal import resample_poly

    clicks = np.zeros(3528)
    clicks[[735, 1470, 2646]] = 1.0  # 1/30, 2/30 and 3.6/30 s
    peaks = [800, 1600, 2880]
    heard = box.resample(clicks)
    assert (
        len(heard) == 3840
        and [int(np.abs(heard[p - 50 : p + 50]).argmax()) + p - 50 for p in peaks] == peaks
    )
    noise = np.convolve(np.random.default_rng(0).standard_normal(3528), np.hanning(9), "same")
    other = resample_poly(noise, 160, 147)
    assert np.corrcoef(box.resample(noise)[100:-100], other[100:-100])[0, 1] > 0.9999
    with pytest.raises(ValueError, match="147"):
        box.resample(np.zeros(148))


def test_resampling_is_torchaudios():
    from talker_t2av.common.media import load_torchaudio

    noise = np.random.default_rng(1).standard_normal(147 * 30)
    theirs = load_torchaudio().functional.resample(
        torch.from_numpy(noise), 22_050, 24_000, lowpass_filter_width=24 * 0.96, rolloff=0.96
    )
    assert np.abs(box.resample(noise) - theirs.numpy()).max() < 1e-9


def test_data_under_a_very_long_path(tmp_path, monkeypatch):
    import espeakng_loader

    folder = tmp_path / ("long" * 40)
    folder.mkdir()
    (folder / "espeak-ng-data").symlink_to(espeakng_loader.get_data_path())
    expected = fingerprint(JOBS[0])
    monkeypatch.setattr(espeakng_loader, "get_data_path", lambda: str(folder / "espeak-ng-data"))
    assert fingerprint(JOBS[0]) == expected


def test_ctrl_c_amid_a_word_is_not_lost(monkeypatch, capfd):
    """A KeyboardInterrupt inside a C callback would be printed and forgotten; it must
    come out of the call.
    """
    from talker_t2av.world.voice import espeak as module

    def interrupting(receive):
        def wrapped(*arguments):
            signal.raise_signal(signal.SIGINT)
            return receive(*arguments)

        return callback(wrapped)

    # a shell's background jobs begin with SIGINT ignored
    callback, before = module._CALLBACK, signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(module, "_CALLBACK", interrupting)
    try:
        with pytest.raises(KeyboardInterrupt):
            module.espeak("Good morning.")
        assert capfd.readouterr().err == ""
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    monkeypatch.undo()
    assert len(module.espeak("Good morning.")[0]) > 1000
