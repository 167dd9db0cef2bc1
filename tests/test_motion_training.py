"""The motion codec's training by its command: what it writes, what it refuses, that the code
stays frozen, and that a killed run goes on.
"""

import argparse
import json
import multiprocessing
import signal
import time

import pytest
import torch
from safetensors.torch import load_file

from talker_t2av.codecs.motion import training
from talker_t2av.codecs.motion.codec import (
    REGIONS,
    CopyReference,
    DecoderState,
    FaceReader,
    MotionCodec,
    ShippedNetwork,
    to_images,
)
from talker_t2av.codecs.motion.losses import MotionLossWeights, psnr, ssim
from talker_t2av.codecs.motion.reader import (
    LIMITS,
    explained,
    face_ids,
    frame_bank,
    read_batches,
    read_people,
    reader_loss,
    spoken_clips,
    spoken_movement,
    standardiser,
    vary,
)
from talker_t2av.codecs.motion.training import (
    MOTION_RECIPES,
    explained_by,
    fit_line,
    motion_codec_command,
    own_face,
    pair_batches,
    redraw,
    train_motion,
    transfer,
    two_way_loss,
)
from talker_t2av.world.face.rendering import face_split


def command(*words):
    parser = argparse.ArgumentParser()
    motion_codec_command(parser)
    args = parser.parse_args(["--preset", "tiny", *map(str, words)])
    return args.func(args)


def short_clips(count, size, seed=0, frames=9, split="test_faces"):
    """`spoken_clips` with nine frames of each clip where nothing else is asked for."""
    return spoken_clips(count, size, seed, frames, split)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder that the command filled; it measured a few frames of each clip."""
    out = tmp_path_factory.mktemp("motion")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "spoken_clips", short_clips)
        assert command("--out", out) == 0
    return out


@pytest.fixture(scope="module")
def bank():
    return frame_bank(3, 4, 64, clips=2)


@pytest.fixture
def codec():
    torch.manual_seed(0)
    return MotionCodec(MOTION_RECIPES["tiny"].config).eval()


def test_the_command_writes_weights_that_load_and_results_that_belong_to_them(trained):
    codec = MotionCodec.from_pretrained(trained)
    record = json.loads((trained / "results.json").read_text())
    values, clips = record["values"], short_clips(MOTION_RECIPES["tiny"].measured_clips, 64)
    again = own_face(codec, clips, [redraw(codec, clip)[0] for clip in clips])
    assert (
        again["psnr"] == pytest.approx(values["self"]["psnr"], abs=1e-4)
        and values["self"]["frames"] == again["frames"]
    )
    # all directions kept: the same pictures
    assert values["sizes"]["20"]["psnr"] == pytest.approx(values["self"]["psnr"], abs=0.3)
    assert set(values) >= {
        "self",
        "probe",
        "cross",
        "sizes",
        "spectrum",
        "speed",
        "training",
        "size",
    }
    assert "--preset tiny" in record["command"] and str(trained) not in record["command"]
    assert set(values["training"]) >= {"reader", "size-32", "size-64"} and list(
        (trained / "samples").glob("064-*.png")
    )
    assert (codec.latent_deviation > 0).all() and not torch.equal(
        codec.latent_deviation, torch.ones(codec.latent_size)
    )
    assert (trained / "model.safetensors").stat().st_size < 2.2 * sum(
        value.numel() for value in codec.state_dict().values()
    ) + 50_000


def test_the_code_is_frozen_before_the_decoder_learns(trained):
    first, last = (
        load_file(trained / "code" / "model.safetensors"),
        load_file(trained / "model.safetensors"),
    )
    fixed = [name for name in first if name.startswith(("network.reader.", "latent_"))]
    assert fixed and all(torch.equal(first[name], last[name]) for name in fixed)
    assert any(
        not torch.equal(first[name], last[name])
        for name in first
        if name.startswith("network.decoder.")
    )
    clip = spoken_clips(1, 64, frames=5)[0]
    assert torch.equal(
        MotionCodec.from_pretrained(trained / "code").encode(clip.frames[None]),
        MotionCodec.from_pretrained(trained).encode(clip.frames[None]),
    )


def test_a_killed_run_goes_on_to_the_same_weights(trained, tmp_path):
    """Killed while the reader learns, resumed, killed while the decoder learns, resumed."""
    forks = multiprocessing.get_context("forkserver")
    # the list of test_training_loop.py: one server serves a whole test run
    forks.set_forkserver_preload(
        ["accelerate", "torch._dynamo", "talker_t2av.common.trainer", "talker_t2av.world.build"]
    )
    for stage, resume in (("reader", False), ("size-64", True)):
        words = (MOTION_RECIPES["tiny"], tmp_path, resume, False)
        process, limit = forks.Process(target=train_motion, args=words), time.monotonic() + 300
        process.start()
        while (
            not any((tmp_path / stage).glob("checkpoint-*"))
            and process.is_alive()
            and time.monotonic() < limit
        ):
            time.sleep(0.002)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert list((tmp_path / stage).glob("checkpoint-*"))
    codec, histories = train_motion(MOTION_RECIPES["tiny"], tmp_path, resume=True, progress=False)
    assert [entry["step"] for entry in histories["size-64"]] == list(
        range(MOTION_RECIPES["tiny"].train.steps)
    )
    codec.save_pretrained(tmp_path / "done", torch.float16)
    assert (tmp_path / "done" / "model.safetensors").read_bytes() == (
        trained / "model.safetensors"
    ).read_bytes()


def test_the_command_refuses_before_it_works(trained, tmp_path):
    with pytest.raises(FileExistsError, match="resume"):
        command("--out", trained)
    with pytest.raises(FileNotFoundError, match="resume"):
        command("--out", tmp_path / "new", "--resume")
    with pytest.raises(ValueError, match="steps"):
        command("--out", tmp_path / "new", "--steps", 0)
    assert not (tmp_path / "new").exists()


def test_frames_are_a_function_of_the_seed_and_stay_inside_the_limits(bank):
    same = frame_bank(3, 4, 64, clips=2)
    assert torch.equal(bank.frames, same.frames) and torch.equal(bank.movement, same.movement)
    assert not torch.equal(bank.movement, frame_bank(3, 4, 64, seed=1, clips=2).movement)
    assert ((bank.movement >= LIMITS[:, 0]) & (bank.movement <= LIMITS[:, 1])).all()
    assert {face_split(face) for face in face_ids(20, "held-out")} == {"held-out"}
    assert {face_split(clip.face) for clip in spoken_clips(3, 64, frames=2)} == {"held-out"}
    with pytest.raises(ValueError, match="frames_each"):
        frame_bank(3, 1, 64)
    with pytest.raises(ValueError, match="side"):
        face_ids(1, "test")


def test_varied_movement_keeps_half_of_the_mouths():
    rows = spoken_movement(2)
    moved = vary(rows, torch.Generator().manual_seed(0))
    kept = (moved[:, :7] == rows[:, :7].clamp(LIMITS[:7, 0], LIMITS[:7, 1])).all(1).float().mean()
    assert 0.35 < kept < 0.65 and not torch.equal(moved[:, 7], rows[:, 7])


def test_reader_batches_are_a_function_of_the_step_and_in_standard_units(bank):
    batch, later = next(read_batches(bank, 5)(3)), read_batches(bank, 5)(2)
    next(later)
    again = next(later)
    assert all(torch.equal(batch[name], again[name]) for name in batch)
    units = standardiser(bank)(bank.movement).flatten(0, 1)
    moving = bank.movement.flatten(0, 1).std(0) > 0
    torch.testing.assert_close(units.std(0)[moving], torch.ones(int(moving.sum())))
    torch.manual_seed(0)
    losses = reader_loss(FaceReader(20, (8, 16, 16)), batch)
    torch.testing.assert_close(losses["loss"], losses["read"] + 10 * losses["place"])


def test_explained_tells_people_from_movement():
    truth = torch.randn(5, 6, 3, generator=torch.Generator().manual_seed(0))
    shifted = truth + torch.randn(5, 1, 3, generator=torch.Generator().manual_seed(1))
    truth, shifted = truth.flatten(0, 1), shifted.flatten(0, 1)
    found = explained(shifted, truth, [6] * 5)
    torch.testing.assert_close(found["within"], torch.ones(3))
    assert (found["across"] < 0.9).all()
    assert (explained(torch.zeros_like(truth), truth, [6] * 5)["within"] <= 1e-6).all()


def test_pairs_are_two_different_frames_of_one_person_and_depend_only_on_the_step(bank):
    codes, centres = bank.movement, bank.boxes[..., :2].float()
    batch = next(pair_batches(bank, codes, centres, 6)(7))
    again = pair_batches(bank, codes, centres, 6)(6)
    next(again)
    assert torch.equal(batch["frames"], next(again)["frames"])
    assert not (batch["frames"][:6] == batch["frames"][6:]).flatten(1).all(1).any()
    people = (
        (bank.frames[None] == batch["frames"][:, None, None])
        .flatten(3)
        .all(3)
        .any(2)
        .float()
        .argmax(1)
    )
    assert torch.equal(people[:6], people[6:])


def test_two_way_loss_draws_each_frame_of_a_pair_from_the_other(bank, codec):
    batch = next(pair_batches(bank, *read_people(codec.network.reader.find_and_read, bank), 2)(0))
    loss = two_way_loss(MotionLossWeights())
    swapped = {name: value.roll(2, 0) for name, value in batch.items()}
    torch.testing.assert_close(loss(codec, batch)["loss"], loss(codec, swapped)["loss"])
    same = {name: torch.cat([value[:2], value[:2]]) for name, value in batch.items()}
    # warped onto itself, a picture is nearly right from the start
    assert loss(codec, same)["loss"] < loss(codec, batch)["loss"]
    assert "read" in two_way_loss(MotionLossWeights(), 1, codec.network.reader, 0.1)(codec, batch)


def test_a_smaller_image_needs_fewer_maps(codec, bank):
    image = to_images(bank.frames[0, :1])
    with torch.no_grad():
        reference = codec.network.identify(image)
        for halvings in (0, 1, 2):
            trace = codec.network.decode(reference.smaller(halvings), torch.zeros(2, 20))
            assert trace[-1].image.shape == (2, 3, 64 >> halvings, 64 >> halvings)


def test_the_sources_own_code_is_subtracted():
    torch.manual_seed(0)
    network = ShippedNetwork(MOTION_RECIPES["tiny"].config).eval()
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        code, centre = network.reader.find_and_read(image)
        reference = network.identify(image)
        back = reference.latent + network.dictionary(code)
        torch.testing.assert_close(back, network.encoder(image)[0])
        torch.testing.assert_close(reference.code, code)
        torch.testing.assert_close(reference.centre, centre)
        known = network.identify(image, (code, centre))
        torch.testing.assert_close(known.latent, reference.latent)


def test_a_close_up_changes_the_mouth_where_it_is_and_nothing_else(codec, bank):
    image, code = to_images(bank.frames[0, :1]), torch.zeros(1, 20)
    copier = codec.network.copier
    reference = CopyReference(None, [], image, torch.tensor([[0.0, 0.3]]), code)
    logits = torch.tensor([0.0, 0.0, 20.0]).view(1, 3, 1, 1).expand(1, 3, 64, 64)
    still = DecoderState(None, logits, None, torch.zeros(1, 3, 64, 64))
    with torch.no_grad():
        # untrained: a copy
        torch.testing.assert_close(copier(still, reference, code), image, atol=1e-4, rtol=0)
        torch.nn.init.ones_(copier.close["mouth"].out.bias)
        change = (copier(still, reference, code) - image).abs().amax(1)[0]
    rows = (change > 1e-3).any(1).nonzero().flatten()
    columns = (change > 1e-3).any(0).nonzero().flatten()
    (_, down), (wide, high) = REGIONS["mouth"]
    assert 32 * (1.3 + down - high) - 1 <= rows.min()
    assert rows.max() <= 32 * (1.3 + down + high) + 1
    assert 32 * (1 - wide) - 1 <= columns.min() and columns.max() <= 32 * (1 + wide) + 1
    assert change.max() > 0.9


@pytest.mark.parametrize("value_range", [1.0, 2.0])
def test_ssim_and_psnr_are_those_of_torchmetrics(value_range):
    """Theirs also counts windows that reach over the (reflected) border, so the map is cut."""
    from torchmetrics.functional.image import (
        peak_signal_noise_ratio,
        structural_similarity_index_measure,
    )

    generator = torch.Generator().manual_seed(0)
    truth = value_range * torch.rand(3, 3, 48, 40, generator=generator)
    noise = 0.1 * value_range * torch.randn(3, 3, 48, 40, generator=generator)
    for made in (truth + noise, 0.8 * truth, truth.flip(3), truth.roll(1, 3)):
        _, windows = structural_similarity_index_measure(
            made, truth, data_range=value_range, return_full_image=True
        )
        inside = windows[..., 5:-5, 5:-5].mean((1, 2, 3))
        torch.testing.assert_close(ssim(made, truth, value_range), inside, atol=1e-5, rtol=0)
        ratio = [peak_signal_noise_ratio(a, b, data_range=value_range) for a, b in zip(made, truth)]
        torch.testing.assert_close(psnr(made, truth, value_range), torch.stack(ratio))


def test_probe_finds_a_linear_map_and_nothing_in_noise():
    truth, generator = torch.rand(200, 20), torch.Generator().manual_seed(0)
    codes = truth @ torch.randn(20, 24, generator=generator) + 3
    found = explained_by(fit_line(codes[:100], truth[:100]), codes[100:], truth[100:], [50, 50])
    assert min(found["across"].values()) > 0.99 and min(found["within"].values()) > 0.99
    noise = torch.randn(200, 24, generator=generator)
    assert (
        max(
            explained_by(fit_line(noise[:100], truth[:100]), noise[100:], truth[100:], [100])[
                "across"
            ].values()
        )
        < 0.3
    )


def test_transfer_is_measured_against_the_sources_face_with_the_drivers_movement(trained):
    codec, (source, driver) = MotionCodec.from_pretrained(trained), spoken_clips(2, 64, frames=4)
    made, truth = transfer(codec, source, driver)
    assert made.shape == truth.shape == driver.frames.shape
    _, own = transfer(codec, source, source)
    assert torch.equal(own, source.frames)
