"""The recordings of the first notebook: data/first_talker/digits.npz.

    pip install talker-t2av[neural]
    python docs/first_data.py

Each digit, twelve times, by the world's voice "joe": a log-mel spectrogram (100 rows a second,
64 bands) and, for each frame of video, how far the jaw is open. Every recording is filled up
with silence to whole patches of four frames. Numbers are kept as bytes.
The same versions of the libraries give the same file.
"""

from pathlib import Path

import numpy as np
import torch
from scipy.signal import resample_poly

from talker_t2av.common.media import (
    FRAME_RATE,
    PATCH_SIZE,
    SAMPLES_PER_FRAME,
    atomic_path,
    load_torchaudio,
)
from talker_t2av.world.face.articulation import articulate
from talker_t2av.world.voice.voices import speak

OUT = Path(__file__).resolve().parent.parent / "data" / "first_talker" / "digits.npz"
WORDS = "zero one two three four five six seven eight nine".split()
TAKES = 12
VARIATION = 0.5  # of rate and pitch from take to take; the network's own timing varies anyway
RATE, HOP, WINDOW, BANDS = 16_000, 160, 1024, 64  # as in nbs/0_start/00_first_talker.ipynb
ROWS = RATE // HOP // FRAME_RATE  # of the spectrogram, in a frame of video
QUIETEST = -3.0  # log10 of the loudness that counts as silence


def take(word: str, seed: int) -> tuple[np.ndarray, np.ndarray]:  # (N, ROWS, BANDS), (N,) jaw
    """One recording, from a frame before the word to a frame after it."""
    utterance = speak(f"{word}.", "joe", variation=VARIATION, seed=seed)
    spoken = utterance.words[0]
    first = max(0, round(spoken.start * FRAME_RATE) - 1)
    last = int(np.ceil(spoken.end * FRAME_RATE)) + 1
    frames = len(utterance.wav) // SAMPLES_PER_FRAME
    jaw = articulate(utterance.phonemes, frames)[first:last, 0].numpy()
    wav = utterance.wav[first * SAMPLES_PER_FRAME : (first + len(jaw)) * SAMPLES_PER_FRAME]
    wav = torch.from_numpy(resample_poly(wav, 2, 3)).float()
    window = torch.hann_window(WINDOW)
    loudness = torch.stft(wav, WINDOW, HOP, window=window, return_complex=True).abs()
    fbanks = load_torchaudio().functional.melscale_fbanks
    filters = fbanks(WINDOW // 2 + 1, 0.0, RATE / 2, BANDS, RATE)  # (WINDOW / 2 + 1, BANDS)
    rows = (filters.T @ loudness).clamp(min=10**QUIETEST).log10().T[: len(jaw) * ROWS]
    rows = rows.reshape(len(jaw), ROWS, BANDS).numpy()
    missing = -len(jaw) % PATCH_SIZE
    rows = np.pad(rows, ((0, missing), (0, 0), (0, 0)), constant_values=QUIETEST)
    return rows, np.pad(jaw, (0, missing))


def main() -> None:
    takes = [take(word, seed) for word in WORDS for seed in range(TAKES)]
    rows = np.concatenate([rows for rows, _ in takes]).reshape(-1, BANDS)
    jaw = np.concatenate([jaw for _, jaw in takes])
    loudest = rows.max()
    OUT.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(OUT) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(
            file,
            spectrogram=np.round((rows - QUIETEST) / (loudest - QUIETEST) * 255).astype(np.uint8),
            quietest=np.float32(QUIETEST),
            loudest=np.float32(loudest),
            jaw=np.round(jaw * 255).clip(0, 255).astype(np.uint8),
            lengths=np.array([len(jaw) for _, jaw in takes], np.int16),
            digit=np.repeat(np.arange(len(WORDS)), TAKES).astype(np.int8),
        )
    print(
        f"{OUT.name}: {len(takes)} takes, {len(jaw) / FRAME_RATE:.0f} s, {OUT.stat().st_size:,} B"
    )


if __name__ == "__main__":
    main()
