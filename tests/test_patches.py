"""Patches: equal to the released encoder, padding changes nothing, what does not fit is refused."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from talker_t2av.model.layers import TransformerConfig
from talker_t2av.model.patches import (
    PatchEmbedding,
    PatchEncoder,
    convert_released,
    count_patches,
    frames_to_patches,
    patches_to_frames,
)

AUDIO_DIM, MOTION_DIM, D, P = 6, 5, 16, 4


def under(prefix, tensors):
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


@pytest.fixture(scope="module")
def embedding():
    torch.manual_seed(0)
    model = PatchEmbedding(
        TransformerConfig(hidden_size=D, num_hidden_layers=2, num_attention_heads=2),
        AUDIO_DIM,
        MOTION_DIM,
        P,
    )
    torch.nn.init.normal_(model.motion_padding)
    return model


def streams(lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    N = max(lengths)
    return torch.randn(len(lengths), N, AUDIO_DIM, generator=generator), torch.randn(
        len(lengths), N, MOTION_DIM, generator=generator
    )


# ---- against the released definition ----


def released_encoder(tensors, spec):
    size = spec["config"]
    encoder = PatchEncoder(
        TransformerConfig(
            hidden_size=size["hidden_size"],
            num_hidden_layers=size["n_layer"],
            num_attention_heads=size["n_head"],
        )
    )
    encoder.load_state_dict(convert_released(under("weights.", tensors)))
    return encoder


@torch.no_grad()
def test_encoder_equals_the_release(golden):
    tensors, spec = golden("patch_encoder")
    encoder, size = released_encoder(tensors, spec), spec["config"]
    tolerance = {"atol": spec["tolerance"]["max_abs"], "rtol": 0}
    torch.testing.assert_close(encoder(tensors["input.x"]), tensors["output.y"], **tolerance)
    torch.testing.assert_close(
        encoder(tensors["input.x_small"]), tensors["output.y_small"], **tolerance
    )
    zero = torch.zeros(1, 1, size["P"], size["hidden_size"])
    torch.testing.assert_close(encoder(zero), tensors["output.y_zero"], **tolerance)
    torch.testing.assert_close(
        encoder.rope.table[: len(tensors["weights.rope.w"])],
        tensors["weights.rope.w"],
        atol=1e-4,
        rtol=0,
    )


def test_names_are_a_pure_renaming(golden):
    tensors, spec = golden("patch_encoder")
    released = {
        name: tensor for name, tensor in under("weights.", tensors).items() if name != "rope.w"
    }
    converted = convert_released(released)
    assert len(converted) == len(released)
    assert all(
        converted_tensor is tensor
        for converted_tensor, tensor in zip(converted.values(), released.values())
    )
    state = released_encoder(tensors, spec).state_dict()
    assert {name: tensor.shape for name, tensor in state.items()} == {
        name: tensor.shape for name, tensor in converted.items()
    }


def released_embedding(tensors, spec):
    size = spec["config"]
    config = TransformerConfig(
        hidden_size=size["llm"]["hidden_size"],
        num_hidden_layers=size["patch_encoder"]["n_layer"],
        num_attention_heads=size["patch_encoder"]["n_head"],
    )
    model = PatchEmbedding(config, size["speech_dim"], size["motion_dim"], size["patch_size"])
    converted = convert_released(under("weights.", tensors))
    model.load_state_dict({name: converted[name] for name in model.state_dict()})
    return model


@pytest.mark.parametrize("case", ["", "mixed."])
@torch.no_grad()
def test_input_side_equals_the_release(golden, case):
    tensors, spec = golden("joint_step")
    model = released_embedding(tensors, spec)
    given = under(f"{case}input.", tensors)
    tokens = model(given["speech_latent"], given["motion"], given["mel_len"], given["motion_len"])
    task, expected = model.embed_task(given["task_tag"]), tensors[f"{case}mid.inputs_embeds"]
    torch.testing.assert_close(
        task[:, 0], expected[:, 0], atol=spec["tolerance"]["max_abs"], rtol=0
    )
    for row, (first, end) in enumerate(given["speech_span"].tolist()):
        assert count_patches(given["mel_len"], given["motion_len"])[row] == end - first
        torch.testing.assert_close(
            tokens[row, : end - first],
            expected[row, first + 1 : end + 1],
            atol=spec["tolerance"]["max_abs"],
            rtol=0,
        )
        assert not tokens[row, end - first :].any()


# ---- frames and patches ----


@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 3), st.integers(0, 2))
def test_frames_survive_the_cut(n_patches, patch_size, d, batch_dims):
    frames = torch.randn(*([2] * batch_dims), n_patches * patch_size, d)
    patches = frames_to_patches(frames, patch_size)
    assert patches.shape[-3:] == (n_patches, patch_size, d)
    assert torch.equal(patches_to_frames(patches), frames)
    assert torch.equal(patches[..., -1, -1, :], frames[..., -1, :])


@pytest.mark.parametrize("shape", [(7, 3), (2, 9, 3), (3,)])
def test_uneven_frames_are_refused(shape):
    with pytest.raises(ValueError, match="multiple of 4"):
        frames_to_patches(torch.zeros(shape))


def test_count_patches():
    audio, motion = torch.tensor([1, 4, 5, 8, 3]), torch.tensor([0, 7, 11, 12, 12])
    assert count_patches(audio, motion).tolist() == [1, 1, 2, 3, 3]


# ---- the encoder ----


def test_patches_never_see_each_other(embedding):
    x = torch.randn(2, 3, P, D)
    with torch.no_grad():
        before = embedding.audio_encoder(x)
        x[:, 1] = 5.0
        after = embedding.audio_encoder(x)
    torch.testing.assert_close(after[:, [0, 2]], before[:, [0, 2]])
    assert (after[:, 1] - before[:, 1]).abs().max() > 1e-2


def test_order_of_frames_matters_and_any_leading_shape_works(embedding):
    x = torch.randn(3, 2, P, D)
    with torch.no_grad():
        y = embedding.audio_encoder(x)
        assert (embedding.audio_encoder(x.flip(2)) - y).abs().max() > 1e-3
        torch.testing.assert_close(embedding.audio_encoder(x[1, 1]), y[1, 1])
        torch.testing.assert_close(embedding.audio_encoder(x[:, None])[:, 0], y)


def test_encoder_refuses_what_does_not_fit(embedding):
    with pytest.raises(ValueError, match=f"P, {D}"):
        embedding.audio_encoder(torch.zeros(2, P, D + 1))
    with pytest.raises(ValueError, match="causal"):
        PatchEncoder(
            TransformerConfig(
                hidden_size=D, num_hidden_layers=1, num_attention_heads=2, causal=True
            )
        )


# ---- both modalities ----


def alone(embedding, audio, motion, length_a, length_m):
    "Tokens of one sample, written as the rule reads."
    l = int(count_patches(torch.tensor(length_a), torch.tensor(length_m), P))
    x = torch.zeros(l * P, D)
    x[:length_a] = embedding.audio_projector(audio[:length_a])
    token = embedding.audio_encoder(frames_to_patches(x, P))
    if length_m == 0:
        return token + embedding.motion_padding[0]
    x = torch.zeros(l * P, D)
    fits = min(length_m, l * P)
    x[:fits] = embedding.motion_projector(motion[:fits])
    return token + embedding.motion_encoder(frames_to_patches(x, P))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(1, 14), st.integers(0, 14)), min_size=1, max_size=4))
def test_a_sample_is_the_same_alone_and_in_a_batch(embedding, lengths):
    audio, motion = streams([14] * len(lengths))
    length_a, length_m = torch.tensor(lengths).T
    with torch.no_grad():
        tokens = embedding(audio, motion, length_a, length_m)
        for row, (a, m) in enumerate(lengths):
            expected = alone(embedding, audio[row], motion[row], a, m)
            torch.testing.assert_close(tokens[row, : len(expected)], expected, atol=1e-5, rtol=0)
            assert not tokens[row, len(expected) :].any()


def test_what_lies_in_the_padding_does_not_matter(embedding):
    audio, motion = streams([12, 12])
    lengths = torch.tensor([12, 6]), torch.tensor([0, 5])
    with torch.no_grad():
        tokens = embedding(audio, motion, *lengths)
        audio[1, 6:], motion[1, 5:], motion[0] = 7.0, -7.0, 3.0
        assert torch.equal(embedding(audio, motion, *lengths), tokens)


def test_full_length_path_equals_the_batched_one(embedding):
    audio, motion = streams([10, 10])
    full = torch.full((2,), 10)
    with torch.no_grad():
        torch.testing.assert_close(embedding(audio, motion), embedding(audio, motion, full, full))
        torch.testing.assert_close(embedding(audio, motion), embedding(audio, motion, full))
        torch.testing.assert_close(embedding(audio), embedding(audio, None, full))
        torch.testing.assert_close(
            embedding(audio), embedding(audio, motion, full, torch.zeros(2, dtype=torch.long))
        )
        torch.testing.assert_close(
            embedding(audio[:, :P], motion[:, :P]), embedding(audio, motion)[:, :1]
        )


def test_gradients_reach_every_part_and_only_where_due(embedding):
    audio, motion = streams([9, 9])
    embedding.zero_grad()
    (
        embedding(audio, motion, torch.tensor([9, 7]), torch.tensor([0, 8])).sum()
        + embedding.embed_task(torch.tensor([0, 1])).sum()
    ).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in embedding.parameters())
    embedding.zero_grad()
    embedding(audio, motion).sum().backward()
    assert embedding.motion_padding.grad is None or not embedding.motion_padding.grad.any()
    embedding.zero_grad()
    embedding(audio).sum().backward()
    assert embedding.motion_projector.weight.grad is None and embedding.motion_padding.grad.any()


def test_half_precision_model_takes_float32_latents(embedding):
    audio, motion = streams([8, 8])
    half = PatchEmbedding(embedding.audio_encoder.config, AUDIO_DIM, MOTION_DIM, P).to(
        torch.bfloat16
    )
    half.load_state_dict(embedding.state_dict())
    with torch.no_grad():
        tokens = half(audio, motion, torch.tensor([8, 5]), torch.tensor([8, 0]))
        assert tokens.dtype == torch.bfloat16
        torch.testing.assert_close(
            tokens.float(),
            embedding(audio, motion, torch.tensor([8, 5]), torch.tensor([8, 0])),
            atol=0.1,
            rtol=0.1,
        )


def test_autocast_keeps_gradients(embedding):
    audio, motion = streams([8, 8])
    embedding.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        embedding(
            audio, motion, torch.tensor([8, 5]), torch.tensor([8, 0])
        ).float().sum().backward()
    assert embedding.audio_projector.weight.grad.isfinite().all()


def test_task_tag(embedding):
    tags = embedding.embed_task(torch.tensor([1, 0, 1]))
    assert (
        tags.shape == (3, 1, D)
        and torch.equal(tags[0], tags[2])
        and not torch.equal(tags[0], tags[1])
    )


GOOD = {
    "audio": torch.zeros(2, 8, AUDIO_DIM),
    "motion": torch.zeros(2, 8, MOTION_DIM),
    "audio_lengths": torch.tensor([8, 4]),
    "motion_lengths": torch.tensor([8, 0]),
}


@pytest.mark.parametrize(
    "change, words",
    [
        ({"audio": torch.zeros(2, 8, AUDIO_DIM + 1)}, f"audio: takes .*{AUDIO_DIM}"),
        ({"audio": torch.zeros(8, AUDIO_DIM)}, "audio: takes"),
        ({"audio": torch.zeros(2, 0, AUDIO_DIM)}, "N > 0"),
        ({"audio": torch.zeros(2, 8, AUDIO_DIM, dtype=torch.long)}, "int64"),
        ({"audio": torch.full((2, 8, AUDIO_DIM), float("nan"))}, "audio: holds NaN"),
        ({"motion": torch.full((2, 8, MOTION_DIM), float("inf"))}, "motion: holds NaN"),
        ({"motion": torch.zeros(2, 8, MOTION_DIM - 1)}, f"motion: takes .*{MOTION_DIM}"),
        ({"motion": torch.zeros(3, 8, MOTION_DIM)}, "3 samples"),
        ({"audio_lengths": torch.tensor([8, 9])}, "audio_lengths: takes 1 to 8"),
        ({"audio_lengths": torch.tensor([0, 8])}, "audio_lengths: takes 1 to 8"),
        ({"motion_lengths": torch.tensor([-1, 8])}, "motion_lengths: takes 0 to 8"),
        ({"audio_lengths": torch.tensor([8])}, r"shape \(2,\)"),
        ({"audio_lengths": torch.tensor([8.0, 4.0])}, "integers"),
        ({"motion": None}, "without motion"),
    ],
)
def test_bad_input_is_refused(embedding, change, words):
    with pytest.raises(ValueError, match=words):
        embedding(**{**GOOD, **change})


def test_good_input_is_taken(embedding):
    assert embedding(**GOOD).shape == (2, 2, D)
