"""The release's speaker encoder: equal to the recorded vectors step by step, every name and shape
of the released file, one loader for both encoders, and a pipeline that runs with either.
"""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_files import FOLDERS

from talker_t2av.codecs.audio.semantic import resample_to_16k
from talker_t2av.codecs.speaker.encoder import SPEAKER_PRESETS, SpeakerEncoder, SpeakerModel
from talker_t2av.codecs.speaker.wavlm import (
    UNUSED_RELEASED,
    WAVLM_PRESETS,
    WavLMSpeakerConfig,
    WavLMSpeakerEncoder,
    hidden_states,
    load_speaker_encoder,
    mix_layers,
    released_speaker_config,
    released_speaker_names,
    speaker_from_released,
    speaker_to_released,
    standardised,
)
from talker_t2av.common.hub import CONFIG, WEIGHTS
from talker_t2av.inference.pipeline import TalkerPipeline, hear_voice

TINY = WAVLM_PRESETS["tiny"]
SMALLEST = replace(
    TINY,
    conv_channels=4,
    hidden_size=16,
    intermediate_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_buckets=20,
    channels=16,
    pooled_channels=8,
    attention_channels=4,
    gate_channels=4,
)


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def small():
    "An encoder whose weights, and whose batch norms' statistics, are all different numbers."
    torch.manual_seed(0)
    encoder = WavLMSpeakerEncoder(SMALLEST).eval()
    state = encoder.state_dict()
    for i, (name, value) in enumerate(state.items()):
        if value.is_floating_point():
            state[name] = value + 0.1 * noise(*value.shape, seed=i).abs()
    encoder.load_state_dict(state)
    return encoder


@pytest.fixture(scope="module")
def released(small):
    return {name: value.clone() for name, value in speaker_to_released(small.state_dict()).items()}


# --- against the released definition


@pytest.fixture(scope="module")
def recorded(golden):
    tensors, spec = golden("speaker_wavlm_ecapa")
    weights = {
        name.removeprefix("weights."): value
        for name, value in tensors.items()
        if name.startswith("weights.")
    }
    limits = spec["tolerance"]

    def check(name, ours):
        assert ours.shape == tensors[name].shape, name
        gap = (ours - tensors[name]).abs().max()
        assert gap < limits["max_abs_of"].get(name, limits["max_abs"]), (name, float(gap))

    return speaker_from_released(weights), tensors, spec, check


def samples_of(tensors, spec, case):
    "The waveform that a case of the golden file feeds, (B, T) at 16 kHz."
    a, b = tensors["input.wav_a"], tensors["input.wav_b"]
    length = spec["config"]["cases"][case]["samples"]
    if case == "batch":
        return torch.cat([a[:, :length], b[:, :length]])
    if case == "long":
        return b.repeat(1, -(-length // b.shape[1]))[:, :length]
    if case == "padded30":
        return F.pad(a, (0, length - a.shape[1]))
    if case == "quiet":
        return a[:, :length] * 0.01
    return (b if case == "b" else a)[:, :length]


@torch.no_grad()
def test_every_step_equals_the_recorded_one(recorded):
    encoder, tensors, spec, check = recorded
    wav = standardised(samples_of(tensors, spec, "a"))
    check("mid.a.wav_norm", wav[:, : tensors["mid.a.wav_norm"].shape[1]])
    features, _ = encoder.wavlm.feature_extractor(wav, None)
    check("mid.a.conv_features", features.transpose(1, 2))
    states = hidden_states(encoder.wavlm, wav)
    check("mid.a.hidden", states)
    check("const.layer_mix", encoder.layer_scores.softmax(0))
    mixed = mix_layers(encoder.layer_scores, states)
    check("mid.a.weighted_sum", mixed)
    assert torch.equal(mixed, encoder.mixed(samples_of(tensors, spec, "a")))
    top = encoder.ecapa
    x = top.conv_in(F.instance_norm(mixed))
    check("mid.a.layer1", x)
    for number, block in enumerate(top.blocks, 2):
        x = block(x)
        check(f"mid.a.layer{number}", x)
    gathered = top.features(mixed)
    check("mid.a.mfa", gathered)
    check("mid.a.pool_logits", top.pool.score(gathered))
    pooled = top.pool(gathered)
    check("mid.a.pooled", pooled)
    check("mid.a.pooled_bn", top.pool_norm(pooled))
    check("output.small.embedding", top(tensors["input.small_features"]))


@pytest.mark.parametrize("case", ["a", "b", "batch", "short", "quiet", "long", "padded30"])
@torch.no_grad()
def test_embeddings_equal_the_recorded_ones(recorded, case):
    encoder, tensors, spec, check = recorded
    check(f"output.{case}.embedding", encoder(samples_of(tensors, spec, case)))


def test_resampling_equals_the_recorded_one(recorded):
    _, tensors, _, check = recorded
    check("output.resample_24000_to_16000", resample_to_16k(tensors["input.resample_24000"]))


def test_paper_preset_has_every_released_name_and_shape():
    path = next(
        folder / "manifest_speaker.json"
        for folder in FOLDERS
        if (folder / "manifest_speaker.json").is_file()
    )
    facts = json.loads(path.read_text())["speaker"]
    expected = {name: shape for name, shape, *_ in facts["entries"]}
    unused = {name for name in expected if name.startswith(UNUSED_RELEASED)}
    assert unused == {"feature_extract.model.mask_emb"}
    with torch.device("meta"):  # no memory for 324 million numbers
        encoder = WavLMSpeakerEncoder(WAVLM_PRESETS["paper"])
    ours = {
        name: list(value.shape) for name, value in speaker_to_released(encoder.state_dict()).items()
    }
    assert ours == {name: shape for name, shape in expected.items() if name not in unused}
    numbers = sum(p.numel() for p in encoder.parameters())
    assert numbers + WAVLM_PRESETS["paper"].hidden_size == facts["parameters"]
    on_meta = {name: torch.empty(shape, device="meta") for name, shape in expected.items()}
    assert released_speaker_config(on_meta) == WAVLM_PRESETS["paper"]


def test_names_are_different_and_stacked_tensors_come_back(small, released):
    state = small.state_dict()
    theirs = [name for ours in state for name in released_speaker_names(ours)]
    assert len(set(theirs)) == len(theirs) == len(released)
    unused = {name + "x": torch.ones(3) for name in UNUSED_RELEASED}
    again = speaker_from_released(released | unused)
    assert again.config == small.config and not again.training
    for name, value in again.state_dict().items():
        assert torch.equal(value, state[name]) and value.dtype == state[name].dtype, name
    assert all(p.requires_grad for p in again.parameters())


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda t: t.pop("linear.bias"), "linear.bias is missing"),
        (lambda t: t.update({"layer3.bn": torch.zeros(1)}), "layer3.bn is not a tensor"),
        (lambda t: t.pop("layer4.SE_Connect.linear2.bias"), "layer4.SE_Connect.linear2.bias is"),
        (lambda t: t.update({"feature_weight": torch.zeros(9)}), r"feature_weight has shape \(9,"),
        (lambda t: t["conv.bias"].fill_(math.nan), "holds NaN"),
        (lambda t: t.clear(), "missing"),
        (
            lambda t: t.update(
                {"feature_extract.model.encoder.layers.1.self_attn.k_proj.bias": torch.zeros(3)}
            ),
            r"layers.1.self_attn.k_proj.bias has shape \(3,\), takes \(16,\)",
        ),
        (
            lambda t: t.update(
                {"feature_extract.model.post_extract_proj.weight": torch.zeros(17, 4)}
            ),
            "hidden_size: takes a multiple",
        ),
        (
            lambda t: t.update({"feature_extract.model.post_extract_proj.weight": torch.zeros(3)}),
            "post_extract_proj.weight has shape",
        ),
    ],
)
def test_faults_of_a_released_file_are_named(released, change, words):
    tensors = {name: value.clone() for name, value in released.items()}
    change(tensors)
    with pytest.raises(ValueError, match=words):
        speaker_from_released(tensors)


# --- the same interface as our encoder


def test_encode_hears_whole_frames_at_16_khz_and_30_s(small):
    assert isinstance(small, SpeakerModel) and small.embedding_size == 16
    wav = noise(2, 25_000) * 0.1  # 26 frames and 40 samples at 24 kHz
    vectors = small.encode(wav)
    with torch.no_grad():
        direct = small(resample_to_16k(wav)[:, : 26 * 640])
    assert torch.equal(vectors, direct) and vectors.shape == (2, 16)
    assert not vectors.requires_grad
    torch.testing.assert_close(small.encode(wav[1:]), vectors[1:])
    assert small.heard(torch.zeros(1, 40 * 24_000)).shape == (1, 480_000)
    weights = small.attention(wav)
    assert weights.shape == (2, 51)  # floor((16,640 - 400) / 320) + 1
    torch.testing.assert_close(weights.sum(1), torch.ones(2))


def test_loudness_does_not_matter_but_the_beginning_of_a_batch_is_no_padding(small):
    wav = noise(1, 24_000, seed=3) * 0.1
    torch.testing.assert_close(small.encode(wav * 0.5), small.encode(wav), atol=1e-2, rtol=1e-2)
    moved = small.encode(wav.flip(1))
    assert (moved - small.encode(wav)).abs().max() > 1e-3


@pytest.mark.parametrize(
    "wav, error, words",
    [
        (torch.ones(1, 11_000), ValueError, "0.5 to 60 s"),
        (torch.ones(24_000), ValueError, "mono"),
        (torch.zeros(1, 24_000), ValueError, "silence"),
        (torch.full((1, 24_000), math.nan), ValueError, "NaN"),
        (torch.ones(1, 24_000).short(), TypeError, "int16"),
    ],
)
def test_bad_sound_is_refused(small, wav, error, words):
    for method in (small.encode, small.attention):
        with pytest.raises(error, match=words):
            method(wav)


@pytest.mark.parametrize(
    "values, words",
    [
        ({"channels": 0}, "channels: takes a whole number of 1 or more, got 0"),
        ({"embedding_size": 2.0}, "embedding_size: takes a whole number"),
        ({"num_attention_heads": True}, "num_attention_heads: takes a whole number"),
        ({"num_attention_heads": 3}, "hidden_size: takes a multiple of 3"),
        ({"hidden_size": 24}, "hidden_size: takes a multiple of 16"),
        ({"channels": 12}, "channels: takes a multiple of 8"),
    ],
)
def test_bad_sizes_are_refused(values, words):
    with pytest.raises(ValueError, match=words):
        replace(SMALLEST, **values)


# --- files


@pytest.fixture
def folder(small, tmp_path):
    return small.save_pretrained(tmp_path / "wavlm")


def test_one_loader_takes_both_kinds(small, folder, tmp_path):
    wav = noise(1, 24_000) * 0.1
    for again in (load_speaker_encoder(folder), WavLMSpeakerEncoder.from_pretrained(folder)):
        assert type(again) is WavLMSpeakerEncoder and not again.training
        assert torch.equal(again.encode(wav), small.encode(wav))
        assert again.layer_scores.requires_grad and not again.ecapa.embed.weight.is_meta
    torch.manual_seed(0)
    ours = SpeakerEncoder(SPEAKER_PRESETS["tiny"]).eval()
    ours.save_pretrained(tmp_path / "ours")
    again = load_speaker_encoder(tmp_path / "ours")
    assert type(again) is SpeakerEncoder and torch.equal(again.encode(wav), ours.encode(wav))
    with pytest.raises(ValueError, match="holds a SpeakerEncoder, not a WavLMSpeakerEncoder"):
        WavLMSpeakerEncoder.from_pretrained(tmp_path / "ours")
    with pytest.raises(ValueError, match="load_speaker_encoder takes it"):
        SpeakerEncoder.from_pretrained(folder)


def test_half_precision_is_read_back_as_float32(small, tmp_path):
    again = load_speaker_encoder(small.save_pretrained(tmp_path, torch.float16))
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    assert again.state_dict()["ecapa.pool_norm.num_batches_tracked"].dtype == torch.int64
    wav = noise(1, 24_000) * 0.1
    cosine = F.cosine_similarity(again.encode(wav), small.encode(wav))
    assert cosine > 0.999


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda c: c.update(design="xvector"), "design: takes 'wavlm_ecapa'"),
        (lambda c: c.update(channels=12), "channels: takes a multiple of 8"),
        (lambda c: c.update(depth=3), "depth"),
        (lambda c: c.update(num_buckets=40), "rel_attn_embed.weight has shape"),
        (lambda c: c.update(num_hidden_layers=3), "is missing"),
    ],
)
def test_a_wrong_configuration_is_refused(folder, change, words):
    values = json.loads((folder / CONFIG).read_text())
    assert values == {"design": "wavlm_ecapa"} | asdict(SMALLEST)
    change(values)
    (folder / CONFIG).write_text(json.dumps(values))
    with pytest.raises(ValueError, match=words):
        load_speaker_encoder(folder)


def test_weights_that_are_cut_off_are_refused(folder):
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="cut off"):
        load_speaker_encoder(folder)


# --- in the pipeline


def test_a_pipeline_takes_either(small, tmp_path):
    with_ours = TalkerPipeline.untrained("tiny")
    parts = {
        name: getattr(with_ours, name)
        for name in ("talker", "tokenizer", "audio_codec", "motion_codec")
    }
    pipe = TalkerPipeline(**parts, speaker_encoder=small, name="with WavLM")
    pipe.save_pretrained(tmp_path)
    again = TalkerPipeline.from_pretrained(tmp_path)
    assert type(again.speaker_encoder) is WavLMSpeakerEncoder
    wav = (noise(30_000).numpy() * 0.1).astype(np.float32)
    options = {"voice": wav, "face": None, "num_steps": 2}
    one, other = pipe("No.", **options), again("No.", **options)
    np.testing.assert_allclose(one.audio, other.audio, atol=1e-5)
    torch.testing.assert_close(one.speaker, small.encode(torch.from_numpy(wav)[None])[0])
    with pytest.raises(ValueError, match="speaker vectors of size 16, got 24"):
        wide = WavLMSpeakerEncoder(replace(SMALLEST, embedding_size=24))
        TalkerPipeline(**parts, speaker_encoder=wide)


def test_the_length_of_a_released_vector_is_kept(small):
    vector = 3 * noise(16)
    assert torch.equal(hear_voice(small, vector), vector)
    torch.manual_seed(0)
    ours = SpeakerEncoder(SPEAKER_PRESETS["tiny"])
    torch.testing.assert_close(hear_voice(ours, vector), F.normalize(vector, dim=0))
    short = np.full(11_760, 0.1, np.float32)  # 0.49 s: filled up to what the encoder takes
    assert hear_voice(small, short).shape == (16,)


def test_defaults_are_the_released_sizes():
    assert WavLMSpeakerConfig() == WAVLM_PRESETS["paper"]
