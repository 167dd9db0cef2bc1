"""Patches: equal to the released encoder, padding changes nothing, lacking streams are padded."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from talker_t2av.model.layers import RELEASED_STACK_NAMES, TransformerConfig, rename
from talker_t2av.model.patches import (
    PatchEncoder,
    Stream,
    StreamPatches,
    count_patches,
    frames_to_patches,
    patches_to_frames,
    span_mask,
)

DIM, D, P = 6, 16, 4


def under(prefix, tensors):
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def make_stream(optional=True):
    torch.manual_seed(0)
    stream = Stream(
        DIM, TransformerConfig(hidden_size=D, num_hidden_layers=2, num_attention_heads=2), optional
    )
    if optional:
        torch.nn.init.normal_(stream.padding)
    return stream


@pytest.fixture(scope="module")
def stream():
    return make_stream()


def random_patches(*shape, seed=0):
    return torch.randn(*shape, P, DIM, generator=torch.Generator().manual_seed(seed))


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
    weights = {
        name: tensor for name, tensor in under("weights.", tensors).items() if name != "rope.w"
    }
    encoder.load_state_dict(
        {rename(name, RELEASED_STACK_NAMES): tensor for name, tensor in weights.items()}
    )
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
    frames = torch.tensor([1, 4, 5, 8, 3])
    assert count_patches(frames).tolist() == [1, 1, 2, 2, 1]
    assert count_patches(frames, round_up=False).tolist() == [0, 1, 1, 2, 0]
    assert count_patches(9, 4) == 3


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=4),
    st.integers(1, 12),
)
def test_span_mask_by_loops(spans, size):
    first, count = torch.tensor(spans).T
    assert span_mask(first, count, size).tolist() == [
        [a <= i < a + n for i in range(size)] for a, n in spans
    ]


# ---- the encoder ----


def test_patches_never_see_each_other(stream):
    x = torch.randn(2, 3, P, D)
    with torch.no_grad():
        before = stream.encoder(x)
        x[:, 1] = 5.0
        after = stream.encoder(x)
    torch.testing.assert_close(after[:, [0, 2]], before[:, [0, 2]])
    assert (after[:, 1] - before[:, 1]).abs().max() > 1e-2


def test_order_of_frames_matters_and_any_leading_shape_works(stream):
    x = torch.randn(3, 2, P, D)
    with torch.no_grad():
        y = stream.encoder(x)
        assert (stream.encoder(x.flip(2)) - y).abs().max() > 1e-3
        torch.testing.assert_close(stream.encoder(x[1, 1]), y[1, 1])
        torch.testing.assert_close(stream.encoder(x[:, None])[:, 0], y)
        assert stream.encoder(x[:0]).shape == (0, 2, D)


def test_encoder_refuses_a_causal_stack():
    with pytest.raises(ValueError, match="causal"):
        PatchEncoder(
            TransformerConfig(
                hidden_size=D, num_hidden_layers=1, num_attention_heads=2, causal=True
            )
        )


# ---- a stream ----


def alone(stream, patches, length):
    "Vectors of one sample, written as the rule reads."
    if length == 0:
        return stream.padding[0].expand(len(patches), D)
    frames = torch.zeros(len(patches) * P, D)
    fits = min(length, len(frames))
    frames[:fits] = stream.projector(patches_to_frames(patches)[:fits])
    return stream.encoder(frames_to_patches(frames, P))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 14), min_size=1, max_size=4), st.booleans())
def test_a_sample_is_the_same_alone_and_in_a_batch(lengths, optional):
    stream = make_stream(optional)
    lengths = lengths if optional else [max(1, n) for n in lengths]
    patches = random_patches(len(lengths), 3)
    with torch.no_grad():
        vectors = stream(StreamPatches(patches=patches, num_frames=torch.tensor(lengths)))
        for b, length in enumerate(lengths):
            torch.testing.assert_close(
                vectors[b], alone(stream, patches[b], length), atol=1e-5, rtol=0
            )


def test_what_lies_in_the_padding_does_not_matter(stream):
    patches, lengths = random_patches(2, 3), torch.tensor([12, 6])
    with torch.no_grad():
        vectors = stream(StreamPatches(patches=patches, num_frames=lengths))
        patches_to_frames(patches)[1, 6:] = 7.0
        patches = patches.clone()
        patches[1, 1, 2:], patches[1, 2:] = 7.0, -7.0
        assert torch.equal(stream(StreamPatches(patches=patches, num_frames=lengths)), vectors)


def test_generation_and_training_are_one_path(stream):
    patches, full = random_patches(2, 3), torch.full((2,), 12)
    with torch.no_grad():
        whole = stream(StreamPatches(patches=patches))
        torch.testing.assert_close(whole, stream(StreamPatches(patches=patches, num_frames=full)))
        torch.testing.assert_close(whole[:, :1], stream(StreamPatches(patches=patches[:, :1])))
        lacking = stream(StreamPatches(patches=patches, num_frames=0 * full))
        torch.testing.assert_close(lacking, stream(StreamPatches(patches=None)).expand(2, 3, D))


def test_what_is_not_read_adds_nothing(stream):
    patches, lengths = random_patches(2, 3), torch.tensor([12, 0])
    with torch.no_grad():
        vectors = stream(
            StreamPatches(patches=patches, num_frames=lengths, is_read=torch.tensor([False, True]))
        )
    assert not vectors[0].any() and vectors[1].any()


def test_gradients_reach_every_part_and_only_where_due(stream):
    patches = random_patches(2, 3)
    stream.zero_grad()
    stream(StreamPatches(patches=patches, num_frames=torch.tensor([12, 0]))).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in stream.parameters())
    stream.zero_grad()
    stream(StreamPatches(patches=patches, num_frames=torch.tensor([12, 9]))).sum().backward()
    assert stream.padding.grad is None or not stream.padding.grad.any()


def test_half_precision_takes_float32_latents(stream):
    patches, lengths = random_patches(2, 2), torch.tensor([8, 0])
    half = make_stream().to(torch.bfloat16)
    with torch.no_grad():
        vectors = half(StreamPatches(patches=patches, num_frames=lengths))
        assert vectors.dtype == torch.bfloat16
        torch.testing.assert_close(
            vectors.float(),
            stream(StreamPatches(patches=patches, num_frames=lengths)),
            atol=0.1,
            rtol=0.1,
        )


def test_autocast_keeps_gradients(stream):
    stream.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        stream(
            StreamPatches(patches=random_patches(2, 2), num_frames=torch.tensor([8, 0]))
        ).float().sum().backward()
    assert stream.projector.weight.grad.isfinite().all()
