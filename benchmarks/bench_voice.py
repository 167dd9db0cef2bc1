"""How fast the world speaks: seconds of finished speech per second of one core."""

import time

from talker_t2av.world.voice.espeak import ESPEAK_RATE, espeak
from talker_t2av.world.voice.voices import VOICES, speak, voice_names

TEXT = "When the rain had stopped, seven small boats left the quiet harbour."


def run() -> list[dict]:
    "Speak one sentence with every voice (finished clips), and with one voice (bare synthesiser)."
    speak(TEXT)  # imports and file cache
    start, seconds = time.perf_counter(), 0.0
    for seed, name in enumerate(voice_names()):
        seconds += speak(TEXT, name, variation=1.0, seed=seed).duration
    finished = seconds / (time.perf_counter() - start)
    start, seconds = time.perf_counter(), 0.0
    for _ in range(20):
        seconds += len(espeak(TEXT)[0]) / ESPEAK_RATE
    bare = seconds / (time.perf_counter() - start)
    note = "one thread, library loaded afresh for every call"
    return [
        {
            "name": "voice/speak",
            "value": round(finished, 1),
            "unit": "x real time",
            "note": f"{len(VOICES)} clips, one per voice; {note}",
        },
        {
            "name": "voice/espeak",
            "value": round(bare, 1),
            "unit": "x real time",
            "note": f"20 calls, no resampling; {note}",
        },
    ]


if __name__ == "__main__":
    for row in run():
        print(row)
