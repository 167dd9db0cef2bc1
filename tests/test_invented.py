"""Invented speakers: unlike each other and unlike the held-out voices; the same ones for ever; the
same samples for the same sentence.
"""

import hashlib
import math

import numpy as np

from talker_t2av.codecs.audio.semantic import speak_invented
from talker_t2av.world.voice.voices import (
    DEVELOPMENT_VARIANTS,
    SPREAD,
    TRAIN_VARIANTS,
    UNSTEADY,
    VOICES,
    draw_invented_voice,
    invent_all_voices,
    invent_voices,
    speak,
    voice_names,
)


def test_invented_speakers_are_apart():
    """No invented speaker has a variant of a held-out voice; training and development share
    none; names are unique; no pitch leaves the scale.
    """
    held_out = {VOICES[name].variant for name in voice_names("held-out")}
    train, development = invent_voices(TRAIN_VARIANTS), invent_voices(DEVELOPMENT_VARIANTS)
    assert len(train) >= 200 and len({voice.name for voice in train + development}) == len(
        train + development
    )
    assert not held_out & {voice.variant for voice in train + development}
    assert not {voice.variant for voice in train} & {voice.variant for voice in development}
    reach = 70 * math.log2(1 + SPREAD) + 10  # and the liveliest phrase
    assert all(0 < voice.pitch - reach and voice.pitch + reach < 99 for voice in train)


def test_the_voices_are_the_same_for_ever():
    """Weights that come with the book were trained on these voices: the same draws, in the same
    order, whoever is left out.
    """
    everybody = invent_all_voices(TRAIN_VARIANTS)
    assert (
        len(everybody) == 289
        and hashlib.sha256(repr(everybody).encode()).hexdigest()[:16] == "df19a0392814be14"
    )
    assert invent_voices(TRAIN_VARIANTS) == [
        voice for voice in everybody if voice.variant not in UNSTEADY
    ]


def test_a_draw_takes_one_number_and_skips_the_unsteady():
    steady, everybody = invent_voices(TRAIN_VARIANTS), invent_all_voices(TRAIN_VARIANTS)
    for seed in range(300):
        drawn, counted = np.random.default_rng(seed), np.random.default_rng(seed)
        voice, place = draw_invented_voice(drawn), int(counted.integers(len(everybody)))
        assert voice in steady and (voice == everybody[place]) == (
            everybody[place].variant not in UNSTEADY
        )
        assert drawn.random() == counted.random()


def test_the_same_sentence_is_the_same_samples():
    voices = [
        invent_voices([variant])[0]
        for variant in (*TRAIN_VARIANTS[::6], *DEVELOPMENT_VARIANTS)
        if variant not in UNSTEADY
    ]
    for voice in voices:
        first = speak("She sells shells.", voice).wav
        speak("Well, well.", "ada")
        assert np.array_equal(first, speak("She sells shells.", voice).wav), voice.name


def test_clips_of_invented_speakers_have_not_changed():
    """What trainings heard: texts and speakers of the first clips."""
    said = [
        (clip.voice, clip.text) for clip in (speak_invented(number, "train") for number in range(6))
    ]
    assert hashlib.sha256(repr(said).encode()).hexdigest()[:16] == "72a991d3e3fe739f"
