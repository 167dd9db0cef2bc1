"""How many digits of the first talker are understood, for several trainings.

    pip install talker-t2av[judges]
    python benchmarks/first_talker.py [--seeds 3] [--sentences 30] [--whisper base]
    [--out data/results/first_talker.json]

Runs the code of nbs/0_start/00_first_talker.ipynb, once for each seed, and lets Whisper, which
knows nothing of this book, write down what every talker says. All trainings say the same sentences
of three digits. The real recordings, through the same codec, say them too: what they lose is not
the talker's fault. Words that sound like a digit ("to", "for") count as that digit.
`--whisper` takes a model name of the package faster-whisper, which downloads it, or a folder.
About two minutes a seed on two idle cores.
"""

import argparse
import re

import jiwer
import matplotlib
import numpy as np
import torch
from first_page import defined
from tqdm import tqdm

from talker_t2av.common.media import data_dir, write_result
from talker_t2av.evaluation.outside import plain_words
from talker_t2av.evaluation.statistics import rate_interval

DIGITS = 3  # in a sentence
QUIET = 8_000  # samples of silence on both sides, for the recognisers
SOUNDS_LIKE = {"to": "two", "too": "two", "for": "four", "won": "one", "ate": "eight", "oh": "zero"}


def digit_words(heard: str, known: list[str]) -> list[str]:
    """Digits that were written down; a number of several figures is read figure by figure."""
    spaced = re.sub(r"(\d)", r" \1 ", heard)
    words = [SOUNDS_LIKE.get(word, word) for word in plain_words(spaced)]
    return [word for word in words if word in known]


def errors(said: list[str], heard: list[str]) -> int:
    """Words put in, left out or replaced."""
    found = jiwer.process_words(" ".join(said), " ".join(heard) or "-")
    return found.substitutions + found.deletions + found.insertions


def transcribed(whisper, sound: torch.Tensor) -> str:  # (T,) at the page's rate, 16 kHz
    """What Whisper hears."""
    wav = torch.nn.functional.pad(sound, (QUIET, QUIET)).numpy()
    parts, _ = whisper.transcribe(wav, language="en", beam_size=5, condition_on_previous_text=False)
    return " ".join(part.text for part in parts).strip()


def recording_of(page: dict, digits: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
    """Real recordings one behind the other, as latents (N, 32)."""
    takes = [rng.choice(np.flatnonzero(page["digit_of"] == digit)) for digit in digits]
    return torch.cat([page["latents"][page["starts"][k] : page["ends"][k]] for k in takes])


def row_of(clips: list[dict]) -> dict:
    """Share of the digits that were heard right, with an interval over sentences."""
    wrong = rate_interval([clip["errors"] for clip in clips], [DIGITS] * len(clips))
    return {"right": 1 - wrong.value, "low": 1 - wrong.high, "high": 1 - wrong.low}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="trainings (default 3)")
    parser.add_argument("--sentences", type=int, default=30, help="of three digits (default 30)")
    parser.add_argument("--whisper", default="base", help="model name or folder (default base)")
    parser.add_argument("--out", default=str(data_dir() / "results" / "first_talker.json"))
    args = parser.parse_args()
    matplotlib.use("agg")
    orders = np.random.default_rng(1000).integers(0, 10, (args.sentences, DIGITS))
    from faster_whisper import WhisperModel

    whisper = WhisperModel(args.whisper, device="cpu", compute_type="int8", cpu_threads=1)
    rows, said = {}, {}
    for seed in range(args.seeds):
        page = defined(seed)
        systems = {f"training {seed}": lambda digits, text: page["say"](text)[0]}
        if seed == 0:
            rng = np.random.default_rng(1)
            systems = {"recordings": lambda digits, text: recording_of(page, digits, rng)} | systems
        for name, speaker in systems.items():
            torch.manual_seed(2000)
            said[name] = []
            for digits in tqdm(orders, desc=name):
                text = " ".join(page["WORDS"][digit] for digit in digits)
                heard = transcribed(
                    whisper, page["sound_of"](page["decode"](speaker(digits, text)))
                )
                wrong = errors(text.split(), digit_words(heard, page["WORDS"]))
                said[name].append({"text": text, "heard": heard, "errors": wrong})
            rows[name] = row_of(said[name])
            print(f"{name}: {rows[name]['right']:.0%} of the digits right", flush=True)
    values = {"digits_each": args.sentences * DIGITS, "rows": rows, "said": said}
    command = f"python benchmarks/first_talker.py --seeds {args.seeds} --sentences {args.sentences}"
    write_result(args.out, values, command)


if __name__ == "__main__":
    main()
