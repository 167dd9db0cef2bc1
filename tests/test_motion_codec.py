"""The motion autoencoder against recorded values, and the codec at its door."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from golden_files import FOLDERS

from talker_t2av.codecs.motion.codec import (
    MOTION_PRESETS,
    ImageReader,
    MotionCodec,
    MotionDictionary,
    PaintingLevel,
    ReleasedConfig,
    ReleasedNetwork,
    ShippedConfig,
    ShippedNetwork,
    checked_images,
    code_statistics,
    codec_from_released,
    motion_config,
    released_names,
    rename_released_motion,
    to_uint8,
)
from talker_t2av.codecs.motion.layers import (
    Activation,
    ConvLayer,
    ConvThenDouble,
    DownBlock,
    EqualConv2d,
    ModulatedConv2d,
    ModulatedUpConv2d,
    Resample,
    StridedDownBlock,
    StyledConvThenDouble,
    StyledUpConv,
    equalised,
    released_up,
    warp_image,
)
from talker_t2av.codecs.motion.losses import (
    MotionLossWeights,
    perceptual_loss,
    reconstruction_loss,
)


def released_weights(tensors):
    return {
        name.removeprefix("weights."): value.float()
        for name, value in tensors.items()
        if name.startswith("weights.")
    }


def close(ours, theirs, limit):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=limit)


def json_beside(name):
    return next(
        json.loads((folder / name).read_text()) for folder in FOLDERS if (folder / name).is_file()
    )


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return MotionCodec("tiny").eval()


@pytest.fixture(scope="module")
def clip():
    return torch.randint(
        0, 256, (2, 5, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


# ---- the released network


def test_paper_preset_has_the_released_names_and_shapes():
    listed = json_beside("lia_x_names.json")
    with torch.device("meta"):
        network = ReleasedNetwork(MOTION_PRESETS["paper"])
    renamed = rename_released_motion(
        {name: tuple(shape) for name, shape in listed["tensors"].items()}, MOTION_PRESETS["paper"]
    )
    assert renamed == {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert sum(p.numel() for p in network.parameters()) == listed["parameters"]
    assert {n for n, _ in network.named_buffers()} == {n for n in renamed if n.endswith("kernel")}


def test_renaming_refuses_unknown_names_and_is_one_to_one():
    with pytest.raises(ValueError, match="dec.conv9_1.weight"):
        rename_released_motion({"dec.conv9_1.weight": torch.zeros(1)}, MOTION_PRESETS["paper"])
    table = released_names(MOTION_PRESETS["paper"])
    assert len(set(table.values())) == len(table)
    assert not [(a, b) for a in table for b in table if a != b and b.startswith(a)], (
        "one beginning must not hide another"
    )


def test_narrow_end_equals_the_recorded_one(golden):
    tensors, spec = golden("lia_x_part")
    c, limit = spec["config"], spec["tolerance"]
    config = motion_config(
        "paper",
        image_size=c["image_size"],
        channels=c["channels"],
        style_dim=c["style_dim"],
        code_size=c["code_size"],
    )
    network = ReleasedNetwork(config).requires_grad_(False)
    assert not network.load_state_dict(
        rename_released_motion(released_weights(tensors), config), strict=False
    ).unexpected_keys
    coarse = network.encoder.levels[-2](tensors["input.feat1"])
    latent = network.encoder.to_latent(network.encoder.levels[-1](coarse)).flatten(1)
    close(coarse, tensors["output.feat0"], limit["feat0"])
    close(latent, tensors["output.source_latent"], limit["source_latent"])
    close(network.to_code(latent), tensors["output.alpha"], limit["alpha"])
    close(network.dictionary.directions(), tensors["mid.direction_basis"], limit["direction"])
    close(
        network.dictionary(tensors["input.motion"]), tensors["output.direction"], limit["direction"]
    )


def test_whole_network_equals_the_recorded_one(golden):
    """Motion code, latent, all feature maps, RGB levels and frames; a minute on a busy core."""
    tensors, spec = golden("lia_x")
    c, limit = spec["config"], spec["tolerance"]
    used = c["channels_nominal_to_used"]
    channels = (used["64"], used["128"], used["256"]) + (used["512"],) * 5
    config = motion_config(
        "paper",
        image_size=c["image_size"],
        channels=channels,
        style_dim=c["style_dim"],
        code_size=c["motion_dim"],
    )
    codec = codec_from_released(
        released_weights(tensors),
        {"mean": [0.0] * config.code_size, "std": [1.0] * config.code_size},
        config,
    )
    image = tensors["input.image"].movedim(1, -1)[0]
    reference = codec.reference(image)
    close(codec.encode(image[None, None])[0], tensors["output.alpha"], limit["alpha"])
    close(reference.latent, tensors["output.source_latent"], limit["source_latent"])
    close(
        codec.network.dictionary(tensors["input.motion"]),
        tensors["output.direction"],
        limit["direction"],
    )
    for i, feature in enumerate(reference.features):
        close(feature.mean((2, 3)), tensors[f"mid.feat{i}_mean"], limit["source_latent"])
        close(feature.std((2, 3)), tensors[f"mid.feat{i}_std"], limit["source_latent"])
        if f"mid.feat{i}" in tensors:
            close(feature, tensors[f"mid.feat{i}"], limit["source_latent"])
    with torch.no_grad():
        trace = codec.network.decode(reference, tensors["input.motion"])
    for level, name in enumerate(["rgb_512", "rgb2", "rgb3", "rgb4"]):
        close(trace[level].image, tensors[f"mid.{name}"], limit["rgb_levels"])
    frames = trace[-1].image
    close(F.avg_pool2d(frames, 8), tensors["output.frames_avg8"], limit["frames_avg8"])
    low, high = (
        (frames.shape[-1] - tensors["output.frames_crop"].shape[-1]) // 2,
        (frames.shape[-1] + tensors["output.frames_crop"].shape[-1]) // 2,
    )
    assert (frames[..., low:high, low:high] - tensors["output.frames_crop"]).abs().mean() < limit[
        "frames_crop_mean_abs"
    ]
    off = (frames - tensors["output.frames_half"].float()).abs()
    assert off.mean() < limit["frames_half_mean_abs"]
    assert (off > 0.01).float().mean() < limit["frames_share_of_pixels_off_by_more_than_0.01"]
    written = ((frames.clamp(-1, 1) + 1) / 2 * 255).to(torch.uint8)[..., ::4, ::4].movedim(1, -1)
    steps = (written.int() - tensors["output.frame_u8"].int()).abs()
    assert (
        steps.max() <= limit["frame_u8_max_steps"]
        and (steps > 0).float().mean() < limit["frame_u8_share_off"]
    )


def test_released_statistics_normalise_as_documented():
    statistics = json_beside("motion_stats.json")
    config = motion_config(
        "paper",
        image_size=16,
        channels=(32,) * 3,
        style_dim=40,
        num_flow_blocks=(0, 0),
        num_image_blocks=(0, 0),
    )
    ours = ReleasedNetwork(config)
    back = {new: old for old, new in released_names(config).items()}
    named = {}
    for name, value in ours.state_dict().items():
        start = next(start for start in back if name.startswith(start))
        named[back[start] + name[len(start) :]] = value
    codec = codec_from_released(named, statistics, config)
    raw = torch.randn(7, 40, generator=torch.Generator().manual_seed(0))
    expected = (raw - torch.tensor(statistics["mean"])) / torch.tensor(statistics["std"]).clamp(
        min=1e-6
    )
    close(codec.normalise(raw), expected, 1e-5)
    close(codec.denormalise(codec.normalise(raw)), raw, 1e-5)
    named.pop("dec.rgb2.bias")
    with pytest.raises(ValueError, match="to_image.bias"):
        codec_from_released(named, statistics, config)


# ---- layers


@pytest.mark.parametrize("make", [ModulatedConv2d, ModulatedUpConv2d])
def test_modulated_convolution_equals_one_sample_at_a_time(make):
    torch.manual_seed(1)
    conv, x, style = make(8, 6, 5), torch.randn(3, 8, 8, 8), torch.randn(3, 5)
    m, weight = conv.modulation(style), equalised(conv.weight[0])
    for b in range(3):
        w = weight * m[b][None, :, None, None]
        w = w / (w.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        one = (
            conv.blur(F.conv_transpose2d(x[b : b + 1], w.transpose(0, 1), stride=2))
            if make is ModulatedUpConv2d
            else F.conv2d(x[b : b + 1], w, padding=1)
        )
        close(conv(x, style)[b : b + 1], one, 1e-5)


def test_resampling_by_hand():
    row = torch.tensor([1.0, 3, 3, 1]) / 8
    x = torch.randn(1, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    padded, out = F.pad(x, (1, 1, 1, 1))[0, 0], Resample(1, 1, down=2)(x)[0, 0]
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            close(out[i, j], row @ padded[2 * i : 2 * i + 4, 2 * j : 2 * j + 4] @ row, 1e-6)


@pytest.mark.parametrize(
    "cheap, released",
    [
        (StridedDownBlock(8, 16), DownBlock(8, 16)),
        (StyledConvThenDouble(8, 16, 4), StyledUpConv(8, 16, 4)),
        (ConvThenDouble(8, 16), released_up(8, 16)),
    ],
)
def test_cheap_and_released_blocks_have_the_same_parameters(cheap, released):
    shapes = [sorted(tuple(p.shape) for p in block.parameters()) for block in (cheap, released)]
    assert shapes[0] == shapes[1]
    assert not list(cheap.buffers()) and list(released.buffers())


def test_conv_layer_is_its_parts_and_has_gradients():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 8)
    bare = ConvLayer(EqualConv2d(3, 8, 3, padding=1), Activation(8))
    full = ConvLayer(Resample(2, 2), EqualConv2d(3, 8, 3, stride=2), Activation(8))
    bare[1].bias.data.normal_()
    full[2].bias.data.normal_()
    close(bare(x), bare[1](bare[0](x)), 1e-5)
    close(full(x), full[2](full[1](full[0](x))), 1e-5)
    block = DownBlock(3, 8)
    block(x).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in block.parameters())


def test_warp_looks_where_the_flow_points():
    picture = torch.arange(25.0).view(1, 1, 5, 5)
    flow = torch.zeros(1, 2, 5, 5)
    flow[:, 1] = 0.5  # half a half-width: one row of five further down
    close(warp_image(picture, flow)[0, 0, :4], picture[0, 0, 1:], 1e-5)
    close(warp_image(picture, flow)[0, 0, 4], torch.zeros(5), 1e-5)  # outside is zero


# ---- configuration and dictionary


@pytest.mark.parametrize("size", [8, 16, 24, 40, 64])
def test_code_sizes(size):
    torch.manual_seed(0)
    directions = MotionDictionary(128, size).directions()
    close(directions.T @ directions, torch.eye(size), 1e-5)
    network = ShippedNetwork(motion_config("small", code_size=size))
    assert network.code(torch.zeros(1, 3, 128, 128)).shape == (1, size)


@pytest.mark.parametrize(
    "wrong",
    [
        {"image_size": 100},
        {"channels": (16, 32)},
        {"code_size": 0},
        {"code_size": 999},
        {"reader": ()},
        {"norm_groups": 7},
        {"num_flow_blocks": (1,)},
    ],
)
def test_configuration_refuses(wrong):
    with pytest.raises(ValueError, match="MotionConfig"):
        motion_config("small", **wrong)
    with pytest.raises(ValueError, match="preset"):
        motion_config("huge")


TINY_SHIPPED = ShippedConfig(
    64, (16, 16, 32, 48, 64), 48, 20, (0, 0, 1, 1), (1, 1, 1, 1), reader=(8, 16, 16)
)


@pytest.mark.parametrize("design", ["released", "cheap parts", "shipped"])
def test_every_parameter_learns(design):
    torch.manual_seed(0)
    if design == "released":
        network = ReleasedNetwork(MOTION_PRESETS["tiny"])
    elif design == "cheap parts":
        network = ReleasedNetwork(MOTION_PRESETS["tiny"], StridedDownBlock, PaintingLevel)
    else:
        network = ShippedNetwork(TINY_SHIPPED)
    source, driver = torch.rand(2, 2, 3, 64, 64) * 2 - 1
    picture, code = network(source, driver)
    assert picture.shape == source.shape and code.shape == (2, network.config.code_size)
    (picture.square().mean() + code.square().mean()).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []
    network.eval()  # a reader normalises by its batch in training
    picture = network(source, driver)[0]
    single = network(source[:1], driver[:1])[0]
    close(single, picture[:1], 1e-4)  # a sample does not see the others of its batch


# ---- the codec


def test_one_source_for_many_frames_is_the_same_as_frame_by_frame(tiny, clip):
    motion = tiny.encode(clip)
    assert motion.shape == (2, 5, tiny.latent_size) and motion.dtype == torch.float32
    whole = tiny.render(clip[0, 0], motion[0])
    each = torch.cat([tiny.render(clip[0, 0], motion[0, n : n + 1]) for n in range(5)])
    assert whole.dtype == torch.uint8 and whole.shape == clip.shape[1:]
    assert (whole.int() - each.int()).abs().max() <= 1
    close(tiny.encode(clip.float() / 255), motion, 1e-4)
    again = tiny.encode(clip[1:, 2:3])
    close(again[0, 0], motion[1, 2], 1e-4)


@pytest.mark.parametrize(
    "change, kind, words",
    [
        (lambda c: c[0], ValueError, "B, N, H, W, 3"),
        (lambda c: c[:, :, :32], ValueError, "64 x 64"),
        (lambda c: c[..., :1], ValueError, "64 x 64"),
        (lambda c: c[:, :0], ValueError, "64 x 64"),
        (lambda c: c.long(), TypeError, "uint8"),
        (lambda c: c.float(), ValueError, r"\[0, 1\]"),
        (lambda c: c.float() / 255 - 0.1, ValueError, r"\[0, 1\]"),
        (lambda c: c.float() * float("nan"), ValueError, "NaN"),
    ],
)
def test_encode_refuses(tiny, clip, change, kind, words):
    with pytest.raises(kind, match=words):
        tiny.encode(change(clip))


@pytest.mark.parametrize(
    "motion, kind",
    [
        (torch.zeros(3, 5), ValueError),
        (torch.zeros(0, 8), ValueError),
        (torch.zeros(1, 3, 8), ValueError),
        (torch.full((2, 8), float("inf")), ValueError),
        (torch.zeros(2, 8, dtype=torch.long), TypeError),
        ([[0.0] * 8], TypeError),
    ],
)
def test_render_refuses(tiny, clip, motion, kind):
    with pytest.raises(kind, match="motion"):
        tiny.render(clip[0, 0], motion)
    with pytest.raises(ValueError, match="source"):
        tiny.render(clip[0], torch.zeros(2, 8))


def test_cache_forgets_changed_weights_and_old_sources(tiny, clip):
    codec = MotionCodec("tiny").eval()
    first = codec.reference(clip[0, 0])
    assert codec.reference(clip[0, 0]) is first
    codec.load_state_dict(tiny.state_dict())
    assert codec.reference(clip[0, 0]) is not first
    close(codec.reference(clip[0, 0]).latent, tiny.reference(clip[0, 0]).latent, 1e-6)
    for n in range(20):
        codec.reference(clip.flatten(0, 1)[n % 10])
    assert len(codec._references) <= 8


def test_statistics_floor_empty_dimensions():
    codes = (
        torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
        * torch.tensor([3.0, 1.0, 1e-4, 0.0])
        + 2
    )
    mean, deviation = code_statistics(codes)
    spread = ((codes - mean) / deviation).std(0)
    close(spread[:2], torch.ones(2), 0.01)
    assert spread[2:].max() < 0.01
    for wrong in (torch.zeros(5, 3), torch.zeros(1, 3), torch.full((4, 3), float("nan"))):
        with pytest.raises(ValueError, match="code_statistics"):
            code_statistics(wrong)


def test_save_and_load(tmp_path, tiny, clip):
    tiny.save_pretrained(tmp_path)
    loaded = MotionCodec.from_pretrained(tmp_path)
    assert loaded.config == tiny.config
    assert all(
        torch.equal(value, loaded.state_dict()[name]) for name, value in tiny.state_dict().items()
    )
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"style_dim": 56}))
    with pytest.raises(ValueError, match=r"network\.\S+ has shape"):
        MotionCodec.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"flavour": 1}))
    with pytest.raises(ValueError, match="flavour"):
        MotionCodec.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        MotionCodec.from_pretrained(tmp_path / "nowhere")
    assert [p.name for p in sorted(Path(tmp_path).iterdir())] == [
        "config.json",
        "model.safetensors",
    ]


def test_loading_refuses_weights_that_are_no_numbers(tmp_path, tiny):
    codec = MotionCodec("tiny")
    codec.load_state_dict(tiny.state_dict())
    with torch.no_grad():
        codec.network.to_code.bias[0] = float("nan")
    codec.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="network.to_code.bias"):
        MotionCodec.from_pretrained(tmp_path)


def test_pictures_there_and_back():
    frames = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(-1, -1, -1, 3)
    assert torch.equal(to_uint8(checked_images(frames, 16)), frames)
    assert to_uint8(torch.tensor([-3.0, 3.0]).view(2, 1, 1, 1)).flatten().tolist() == [0, 255]


# ---- training


def test_training_steps_lower_the_loss():
    torch.manual_seed(0)
    network = ReleasedNetwork(MOTION_PRESETS["tiny"])
    ramp = torch.linspace(-0.7, 0.7, 64)
    source = torch.stack(
        [ramp[:, None].expand(64, 64), ramp.expand(64, 64), ramp.flip(0).expand(64, 64)]
    )[None]
    driver, boxes = source.flip(2), torch.tensor([[20, 40, 44, 56]])
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    values = []
    for _ in range(8):
        image, _ = network(source, driver)
        loss = reconstruction_loss(image, driver, MotionLossWeights(), boxes)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < 0.9 * values[0]


def test_loss_terms_need_what_they_need():
    a, b = torch.rand(2, 2, 3, 64, 64) * 2 - 1
    boxes = torch.tensor([[20, 40, 44, 56]] * 2)
    for name in ("feature", "sparsity"):
        with pytest.raises(ValueError, match=name):
            reconstruction_loss(a, b, MotionLossWeights(**{name: 1.0}), boxes)
    with pytest.raises(ValueError, match="mouth"):
        MotionLossWeights(mouth=0.5)
    with pytest.raises(ValueError, match="gradient"):
        MotionLossWeights(gradient=-1.0)
    only = reconstruction_loss(a, a, MotionLossWeights(), boxes)
    assert only["loss"].abs() < 1e-5 and set(only) == {"loss", "l1", "gradient"}


def test_the_perceptual_loss_leaves_its_network_alone():
    torch.manual_seed(0)
    net = ImageReader(20).eval().requires_grad_(False)
    made = (torch.rand(2, 3, 64, 64) * 2 - 1).requires_grad_()
    real = torch.rand(2, 3, 64, 64) * 2 - 1
    perceptual_loss(net, made, real).backward()
    assert made.grad.abs().sum() > 0 and all(p.grad is None for p in net.parameters())
    assert perceptual_loss(net, real, real) == 0


def test_small_preset_is_small():
    network = ShippedNetwork(MOTION_PRESETS["small"])
    assert sum(p.numel() for p in network.parameters()) < 4e6
    assert (
        ReleasedConfig() == MOTION_PRESETS["paper"] and ShippedConfig() == MOTION_PRESETS["small"]
    )


def test_a_file_says_which_design_it_holds(tmp_path):
    for name, config in (("released", MOTION_PRESETS["tiny"]), ("shipped", TINY_SHIPPED)):
        MotionCodec(config).save_pretrained(tmp_path / name)
        written = json.loads((tmp_path / name / "config.json").read_text())
        loaded = MotionCodec.from_pretrained(tmp_path / name)
        assert written["design"] == name and loaded.config == config
    written["design"] = "french"
    (tmp_path / name / "config.json").write_text(json.dumps(written))
    with pytest.raises(ValueError, match="french"):
        MotionCodec.from_pretrained(tmp_path / name)
