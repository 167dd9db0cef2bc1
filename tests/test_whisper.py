"""Whisper's encoder in transformers' layout: the same features from the same weights, every name
of large-v3, and clear refusals.
"""

import json
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from talker_t2av.codecs.audio.codec import released_name
from talker_t2av.codecs.audio.semantic import (
    SEMANTIC_PRESETS,
    WHISPER_NAMES,
    SemanticEncoder,
    config_from_whisper,
    load_whisper,
    renamed,
)
from talker_t2av.codecs.audio.spectrogram import WHISPER_MEL, log_mel
from talker_t2av.common.media import load_torchaudio

# what the Hub's config.json of openai/whisper-large-v3 says (of the decoder only its heads)
LARGE_V3 = {
    "num_mel_bins": 128,
    "d_model": 1280,
    "encoder_layers": 32,
    "encoder_attention_heads": 20,
    "encoder_ffn_dim": 5120,
    "max_source_positions": 1500,
    "activation_function": "gelu",
    "scale_embedding": False,
    "decoder_attention_heads": 20,
}
SMALL = LARGE_V3 | {
    "d_model": 64,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 256,
    "decoder_layers": 1,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 64,
    "vocab_size": 50,
    "max_target_positions": 8,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "decoder_start_token_id": 0,
}


@pytest.fixture(scope="module")
def transformers():
    "The library; not at the top of the file, where every worker would pay for its import."
    load_torchaudio()  # transformers imports torchaudio in passing
    import transformers

    return transformers


@pytest.fixture(scope="module")
def whisper(transformers, tmp_path_factory):
    "transformers' Whisper with random weights, and the folder that it saved itself into."
    torch.manual_seed(2)
    config = transformers.WhisperConfig(**SMALL)
    model = transformers.WhisperForConditionalGeneration(config).eval()
    for name, p in model.named_parameters():
        if "embed_positions" not in name:
            p.data += 0.1 * torch.randn(p.shape)  # also the norms' weights, which start at 1
    folder = tmp_path_factory.mktemp("whisper")
    model.save_pretrained(folder)
    return model, folder


@pytest.fixture(scope="module")
def mel():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 128, 3000, generator=generator)


@torch.no_grad()
def test_features_equal_those_of_transformers(whisper, mel):
    model, folder = whisper
    ours = load_whisper(folder)
    assert not ours.training and ours.config.pad_to == 3000
    theirs = model.model.encoder(mel).last_hidden_state
    found = ours(mel)
    assert found.shape == theirs.shape == (2, 1500, 64)
    assert (found - theirs).abs().max() < 1e-5


@torch.no_grad()
def test_sound_to_features_equals_transformers(transformers, whisper):
    "From samples on: with transformers' own spectrogram, of sound filled up to 30 s."
    model, folder = whisper
    rng = np.random.default_rng(0)
    wav = (0.1 * rng.standard_normal(40_000)).astype(np.float32)  # 2.5 s at 16 kHz
    extractor = transformers.WhisperFeatureExtractor(feature_size=128)
    theirs = extractor(wav, sampling_rate=16_000, return_tensors="pt").input_features
    padded = F.pad(torch.from_numpy(wav)[None], (0, 480_000 - len(wav)))
    ours = log_mel(padded, WHISPER_MEL, 128)
    assert (ours - theirs).abs().max() < 1e-4
    features = model.model.encoder(theirs).last_hidden_state
    assert (load_whisper(folder)(ours) - features).abs().max() < 1e-3


def test_every_name_and_shape_of_large_v3(transformers):
    with torch.device("meta"):  # no memory for 1.5 billion numbers
        config = transformers.WhisperConfig(**LARGE_V3)
        theirs = transformers.WhisperModel(config).encoder.state_dict()
        ours = SemanticEncoder(SEMANTIC_PRESETS["paper"]).state_dict()
    assert config_from_whisper(LARGE_V3) == SEMANTIC_PRESETS["paper"]
    assert {renamed(name, WHISPER_NAMES): value.shape for name, value in ours.items()} == {
        name: value.shape for name, value in theirs.items()
    }


@torch.no_grad()
def test_the_released_checkpoint_s_names_hold_the_same_encoder(whisper, mel):
    "The same tensors under the names of the released autoencoder give the same features."
    model, folder = whisper
    encoder = load_whisper(folder)
    stored = {
        released_name(f"semantic.{name}"): value for name, value in encoder.state_dict().items()
    }
    assert "semantic_model.encoder.blocks.1.attn.query.bias" in stored
    again = SemanticEncoder(encoder.config).eval()
    again.load_state_dict(
        {name: stored[released_name(f"semantic.{name}")] for name in again.state_dict()}
    )
    theirs = model.model.encoder(mel).last_hidden_state
    assert (again(mel) - theirs).abs().max() < 1e-5


@pytest.mark.parametrize("kind", ["shards", "body", "half", "two copies"])
@torch.no_grad()
def test_other_ways_to_store_it(whisper, mel, tmp_path, kind):
    model, folder = whisper
    if kind == "shards":
        model.save_pretrained(tmp_path, max_shard_size="200KB")
        assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    elif kind == "body":  # without the layer that names words, and without the prefix `model.`
        model.model.save_pretrained(tmp_path)
    else:
        shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
        tensors = load_file(folder / "model.safetensors")
        half = {name: value.half() for name, value in tensors.items()}
        if kind == "half":
            save_file(half, tmp_path / "model.safetensors")
        else:  # as in the Hub's folder of large-v3
            save_file(half, tmp_path / "model.fp32-00001-of-00001.safetensors")
    encoder = load_whisper(tmp_path)
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    gap = (encoder(mel) - model.model.encoder(mel).last_hidden_state).abs().max()
    assert gap < (0.05 if kind == "half" else 1e-5)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"model_type": "wav2vec2"}, "model_type='wav2vec2', but this encoder needs 'whisper'"),
        ({"activation_function": "relu"}, "activation_function='relu'"),
        ({"scale_embedding": True}, "scale_embedding=True"),
        ({"d_model": "64"}, "d_model takes a size, got '64'"),
        ({"encoder_layers": 0}, "encoder_layers takes a size, got 0"),
        ({"num_mel_bins": None}, "num_mel_bins takes a size, got None"),
        ({"encoder_ffn_dim": 100}, "encoder_ffn_dim=100"),
        ({"encoder_attention_heads": 7}, "no multiple of encoder_attention_heads=7"),
        ({"encoder_layers": 3}, r"layers.2\S+ is missing"),
        ({"num_mel_bins": 80}, r"conv1.weight has shape \(64, 128, 3\), takes \(64, 80, 3\)"),
    ],
)
def test_what_is_no_such_whisper_is_refused(whisper, tmp_path, change, words):
    shutil.copytree(whisper[1], tmp_path, dirs_exist_ok=True)
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | change))
    with pytest.raises(ValueError, match=words):
        load_whisper(tmp_path)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no config.json"):
        load_whisper(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(LARGE_V3))
    with pytest.raises(FileNotFoundError, match="holds no .safetensors file"):
        load_whisper(tmp_path)
