"""What two judges say that this book did not train: Whisper reads the words, DNSMOS rates how
natural it sounds. Free sentences that nobody was trained on (data/texts/free.txt).

    pip install talker-t2av[judges]
    python benchmarks/outside_judges.py [--clips 100] [--model small] [--whisper base] [--voices
    neural espeak] [--systems truth codec talker] [--out data/results/outside_judges.json]

Every system says the same sentences with the same voices and seeds, so differences are paired:
their intervals are bootstrapped over sentences. Whisper's own mistakes are in every row; the row of
the truth shows how many. Figures in its transcripts are written out before words are compared.
`--whisper` takes a model name of the package faster-whisper, which downloads it, or a folder.
About 25 minutes on two idle cores for 100 sentences, two kinds of voices and three systems.
"""

import argparse
import re

import jiwer
import numpy as np
import torch
from tqdm import tqdm

from talker_t2av import TalkerPipeline
from talker_t2av.common.hub import weight_files
from talker_t2av.common.media import data_dir, file_sha256, load_torchaudio, write_result
from talker_t2av.evaluation.statistics import rate_interval
from talker_t2av.training.latents import read_texts
from talker_t2av.world.voice.voices import neural_voice_names, speak, voice_names

VOICES = {"neural": neural_voice_names, "espeak": voice_names}
SYSTEMS = ("truth", "codec", "talker")
MODELS = {"truth": (), "codec": ("audio_codec",), "talker": ("audio_codec", "talker", "speaker")}
JUDGES_RATE = 16_000


def plain_words(text: str) -> list[str]:
    """Lower-case words without signs; figures are written out, contractions stay as they are."""
    from num2words import num2words

    text = re.sub(r"(?<=\d),(?=\d)", "", text.lower())
    text = re.sub(r"\d+", lambda found: f" {num2words(int(found[0]))} ", text)
    return re.sub(r"[^a-z' ]", " ", text.replace("’", "'")).split()


def to_judges_rate(wav: np.ndarray) -> np.ndarray:  # (T,) at 24 kHz -> (2T/3,) float32
    sound = torch.from_numpy(np.ascontiguousarray(wav, dtype=np.float32))
    return load_torchaudio().functional.resample(sound, 24_000, JUDGES_RATE).clamp(-1, 1).numpy()


class Judges:
    """Both judges, on one thread, so that they give the same answers everywhere."""

    def __init__(self, whisper: str):
        from faster_whisper import WhisperModel
        from speechmos import dnsmos

        self.whisper = WhisperModel(whisper, device="cpu", compute_type="int8", cpu_threads=1)
        self.dnsmos = dnsmos

    def judge(self, wav: np.ndarray, text: str) -> dict:
        """Words wrong, words said, and predicted opinions of listeners (1 to 5)."""
        sound = to_judges_rate(wav)
        parts, _ = self.whisper.transcribe(
            sound, language="en", beam_size=5, condition_on_previous_text=False
        )
        heard = " ".join(part.text for part in parts)
        truth, guess = " ".join(plain_words(text)), " ".join(plain_words(heard))
        found = jiwer.process_words(truth, guess or "-")
        rated = self.dnsmos.run(sound, JUDGES_RATE)
        return {
            "text": text,
            "heard": heard.strip(),
            "errors": found.substitutions + found.deletions + found.insertions,
            "words": len(truth.split()),
            "naturalness": float(rated["p808_mos"]),
            "quality": float(rated["ovrl_mos"]),
        }


def spoken(system: str, text: str, voice: str, seed: int, pipe: TalkerPipeline | None):
    """The sound that a system makes of a sentence."""
    if system == "talker":
        return pipe(text, voice, None, seed=seed).audio
    wav = speak(text, voice, variation=1.0, seed=seed).wav
    if system == "truth":
        return wav
    codec = pipe.audio_codec
    with torch.no_grad():
        decoded = codec.decode(codec.encode(torch.from_numpy(wav)[None]))
    return decoded[0].clamp(-1, 1).numpy()


def row_of(clips: list[dict], truth: list[dict] | None) -> dict:
    """Rates with intervals, and the paired difference to the truth."""
    errors, words = [c["errors"] for c in clips], [c["words"] for c in clips]
    row = {
        "words_wrong": rate_interval(errors, words)._asdict(),
        "naturalness": rate_interval([c["naturalness"] for c in clips])._asdict(),
        "quality": rate_interval([c["quality"] for c in clips])._asdict(),
    }
    if truth is not None:
        more = [c["errors"] - t["errors"] for c, t in zip(clips, truth, strict=True)]
        row["words_wrong_more"] = rate_interval(more, words)._asdict()
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=100, help="sentences (default 100)")
    parser.add_argument("--model", default="small", help="preset, folder or Hub id")
    parser.add_argument("--whisper", default="base", help="model name or folder (default base)")
    parser.add_argument("--voices", nargs="+", default=list(VOICES), choices=VOICES)
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=SYSTEMS)
    parser.add_argument("--texts", default=str(data_dir() / "texts" / "free.txt"))
    parser.add_argument("--out", default=str(data_dir() / "results" / "outside_judges.json"))
    args = parser.parse_args()
    texts = read_texts(args.texts)[: args.clips]
    judges = Judges(args.whisper)
    pipe = None if args.systems == ["truth"] else TalkerPipeline.from_pretrained(args.model)
    kinds = dict.fromkeys(kind for system in args.systems for kind in MODELS[system])
    values: dict = {"clips_each": len(texts), "rows": {}, "said": {}}
    for kind in args.voices:
        names = VOICES[kind]("train")
        found: dict[str, list[dict]] = {}
        for system in args.systems:
            found[system] = []
            for seed, text in enumerate(tqdm(texts, desc=f"{kind}, {system}")):
                voice = names[seed % len(names)]
                wav = spoken(system, text, voice, seed, pipe)
                found[system].append({"voice": voice} | judges.judge(wav, text))
            truth = found.get("truth") if system != "truth" else None
            row = row_of(found[system], truth)
            values["rows"][f"{kind}, {system}"] = row
            wrong, natural = row["words_wrong"], row["naturalness"]
            print(
                f"{kind}, {system}: {wrong['value']:.1%} of the words wrong ({wrong['low']:.1%} to "
                f"{wrong['high']:.1%}), naturalness {natural['value']:.2f}",
                flush=True,
            )
        values["said"][kind] = found
    command = (
        f"python benchmarks/outside_judges.py --clips {args.clips} --voices "
        f"{' '.join(args.voices)} --systems {' '.join(args.systems)}"
    )
    files = weight_files(dict.fromkeys(kinds, args.model))
    parents = {kind: file_sha256(path) for kind, path in files.items()}
    write_result(args.out, values, command, parents=parents)


if __name__ == "__main__":
    main()
