"""The door for data: hostile and broken manifests, batches and their masks,
the sampler's promises.
"""

import csv

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from talker_t2av.common.media import write_video
from talker_t2av.world.build import RELEASED_COLUMNS, build_corpus
from talker_t2av.world.dataset import (
    BadClip,
    ClipDataset,
    LengthBucketSampler,
    SkipCount,
    collate,
    load_motion,
    read_manifest,
)


def write_rows(path, rows, columns=RELEASED_COLUMNS, encoding="utf-8"):
    with open(path, "w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def released(tmp_path):
    """A tiny data set as the authors lay theirs out: WAV at 16 kHz, `.pt` motion of 40 numbers a
    frame, films; the last row is sound only.

    (folder, rows).
    """
    rows, rng = [], np.random.default_rng(0)
    for i, frames in enumerate((20, 43, 30, 24)):
        soundfile.write(tmp_path / f"{i}.wav", rng.uniform(-0.1, 0.1, 640 * frames + 100), 16_000)
        torch.save(torch.randn(frames, 40), tmp_path / f"{i}.pt")
        write_video(tmp_path / f"{i}.mp4", np.full((frames, 16, 16, 3), 40 * i, np.uint8))
        rows.append(
            {
                "sample_id": f"clip/{i}",
                "dataset_source": "x",
                "split": "train" if i else "test",
                "text": f"Grüße, 你好 {i}",
                "wav_path": f"{i}.wav",
                "motion_pt_path": f"{i}.pt",
                "video_path": f"{i}.mp4",
                "pt_length": str(frames),
                "fps": "25",
            }
        )
    rows[-1] |= {"motion_pt_path": "", "video_path": ""}
    return tmp_path, rows


def test_released_format(released):
    folder, rows = released
    manifest = read_manifest(write_rows(folder / "train.csv", rows))
    assert (
        [row.n_frames for row in manifest] == [20, 40, 28, 24]
        and not manifest.bad
        and manifest[1].text == "Grüße, 你好 1"
    )
    batch = collate([ClipDataset(manifest, ("wav", "motion", "frames"))[i] for i in range(4)])
    assert (
        batch["wav"].shape == (4, 960 * 40)
        and batch["motion"].shape == (4, 40, 40)
        and batch["frames"].shape == (4, 40, 16, 16, 3)
    )
    assert batch["has_motion"].tolist() == batch["has_frames"].tolist() == [True, True, True, False]
    assert batch["frame_mask"].sum(1).tolist() == batch["n_frames"].tolist() == [20, 40, 28, 24]
    for b, n in enumerate(batch["n_frames"]):
        assert (
            (batch["motion"][b, n:] == 0).all()
            and (batch["wav"][b, 960 * n :] == 0).all()
            and batch["wav"][b, : 960 * n].abs().max() > 0
        )
    assert (batch["motion"][3] == 0).all() and len(
        read_manifest(folder / "train.csv", split="test")
    ) == 1


def test_root_bom_and_missing_optional_columns(released):
    folder, rows = released
    (folder / "metadata").mkdir()
    path = write_rows(
        folder / "metadata/train.csv", rows, ("text", "wav_path", "sample_id"), "utf-8-sig"
    )
    manifest = read_manifest(path, root=folder)
    assert len(manifest) == 4 and all(row.motion is None and row.video is None for row in manifest)
    with pytest.raises(ValueError, match="4 of 4 rows"):
        read_manifest(path)


BAD_CELLS = [
    ({"wav_path": "none.wav"}, "missing"),
    ({"wav_path": "../0.wav"}, "leads out"),
    ({"motion_pt_path": "/etc/passwd"}, "leads out"),
    ({"wav_path": ""}, "wav_path is empty"),
    ({"text": "  "}, "text is empty"),
    ({"pt_length": "999"}, "pt_length says 999"),
    ({"pt_length": "x"}, "x"),
    ({"fps": "30"}, "fps is 30"),
    ({"motion_pt_path": "1.pt", "pt_length": ""}, "of motion"),
    ({"motion_pt_path": "0.mp4"}, "should end in"),
    ({"wav_path": "0.mp4"}, "no sound file"),
    ({"sample_id": "clip/1"}, "twice"),
    ({"motion_pt_path": "broken.pt"}, "broken"),
]


@pytest.mark.parametrize("cells, reason", BAD_CELLS, ids=[reason for _, reason in BAD_CELLS])
def test_bad_rows_are_named_and_skipped(released, capsys, cells, reason):
    folder, rows = released
    (folder / "broken.pt").write_bytes(b"nothing")
    path = write_rows(folder / "train.csv", rows[1:] + [rows[0] | cells])
    manifest = read_manifest(path, max_bad=0.5)
    assert (
        len(manifest) == 3
        and len(manifest.bad) == 1
        and reason in manifest.bad[0][2]
        and "clip/" in manifest.bad[0][1]
    )
    assert "1 of 4 rows cannot be used" in capsys.readouterr().out
    with pytest.raises(ValueError, match="max_bad=0.05"):
        read_manifest(path)


def test_torn_lines(released):
    folder, rows = released
    path = write_rows(folder / "train.csv", rows)
    path.write_bytes(
        path.read_bytes()
        + b'a,b\r\nc,x,train,"caf\xe9",0.wav,,,20,25\r\nd,x,train,t,0.wav,,,20,25,more\r\n'
    )
    manifest = read_manifest(path, max_bad=0.5)
    assert (
        len(manifest) == 4
        and ["cells" in why or "UTF-8" in why for _, _, why in manifest.bad] == [True] * 3
    )


def test_no_manifest(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_manifest(tmp_path / "none.csv")
    (tmp_path / "a.csv").write_text("text,wav\n")
    with pytest.raises(ValueError, match="sample_id, wav_path"):
        read_manifest(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text("sample_id,text,wav_path\n")
    with pytest.raises(ValueError, match="no usable row"):
        read_manifest(tmp_path / "b.csv")


def test_links_do_not_lead_out(released, tmp_path_factory):
    folder, rows = released
    secret = tmp_path_factory.mktemp("other") / "secret.wav"
    soundfile.write(secret, np.zeros(16_000), 16_000)
    (folder / "link.wav").symlink_to(secret)
    path = write_rows(folder / "train.csv", rows[:3] + [rows[3] | {"wav_path": "link.wav"}])
    assert "leads out" in read_manifest(path, max_bad=1).bad[0][2]
    assert len(read_manifest(path, allow_outside=True)) == 4


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_pickles_run_no_code(tmp_path):
    torch.save({"motion": Payload(str(tmp_path / "owned"))}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match="more than tensors"):
        load_motion(tmp_path / "evil.pt")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "content",
    [
        torch.zeros(5),
        torch.zeros(5, 3, dtype=torch.long),
        torch.full((5, 3), float("nan")),
        {"a": torch.zeros(2, 3), "b": torch.zeros(2, 3)},
        {},
    ],
)
def test_odd_motion_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(ValueError, match="m.pt"):
        load_motion(tmp_path / "m.pt")


def test_motion_as_safetensors(tmp_path):
    motion = torch.randn(8, 40)
    save_file({"motion": motion}, tmp_path / "m.safetensors")
    torch.save({"anything": motion.half()}, tmp_path / "m.pt")
    assert torch.equal(load_motion(tmp_path / "m.safetensors"), motion) and torch.equal(
        load_motion(tmp_path / "m.pt"), motion.half().float()
    )


def test_our_corpus_comes_through_the_same_door(tmp_path):
    rows = read_manifest(build_corpus(tmp_path / "c", 8, size=32, tts_share=0.5, workers=1))
    data = ClipDataset(rows, ("wav", "motion", "frames", "phonemes"))
    batch = collate([data[i] for i in range(8)])
    assert (
        batch["motion"].shape[-1] == 20
        and batch["has_motion"].tolist() == batch["has_frames"].tolist() == data.has_motion
        and 0 < sum(data.has_motion) < 8
    )
    assert (
        batch["phonemes"][0][0].start == 0
        and batch["wav"].shape[1] == 960 * batch["frame_mask"].shape[1]
    )


def test_files_that_go_bad_later(released):
    folder, rows = released
    data = ClipDataset(
        read_manifest(write_rows(folder / "train.csv", rows)), ("wav", "motion", "frames")
    )
    (folder / "1.mp4").write_bytes(b"gone")
    (folder / "2.wav").unlink()
    items = [data[i] for i in range(4)]
    assert [isinstance(item, BadClip) for item in items] == [False, True, True, False]
    batch = collate(items)
    assert batch["sample_id"] == ["clip/0", "clip/3"] and [
        bad.sample_id for bad in batch["bad"]
    ] == ["clip/1", "clip/2"]
    with pytest.raises(ValueError, match="clip/1.*clip/2"):
        collate(items[1:3])
    count = SkipCount(max_bad=0.2)
    with pytest.raises(RuntimeError, match="of 100 clips could not be read"):
        for _ in range(25):
            count.add(batch)
    assert count.seen == 100 and len(count.bad) == 50


def test_films_of_two_sizes_do_not_mix(released):
    folder, rows = released
    write_video(folder / "0.mp4", np.zeros((20, 32, 32, 3), np.uint8))
    data = ClipDataset(read_manifest(write_rows(folder / "train.csv", rows)), ("frames",))
    with pytest.raises(ValueError, match="different shapes"):
        collate([data[0], data[1]])
    with pytest.raises(ValueError, match="pixels"):
        ClipDataset([], ("pixels",))


lengths_lists = st.lists(st.integers(1, 40).map(lambda n: 4 * n), min_size=1, max_size=80)


@settings(max_examples=100, deadline=None)
@given(lengths_lists, st.integers(1, 12), st.integers(0, 5), st.integers(0, 3))
def test_every_clip_once(lengths, batch_size, seed, epoch):
    sampler = LengthBucketSampler(lengths, batch_size, seed=seed)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths))) and len(
        batches
    ) == len(sampler)
    assert all(len(batch) <= batch_size for batch in batches) and batches == list(sampler)
    assert sum(len(batch) < batch_size for batch in batches) <= 1


@settings(max_examples=100, deadline=None)
@given(lengths_lists, lengths_lists, st.integers(2, 12), st.data())
def test_mixed_batches_keep_their_promise(with_motion, without, batch_size, data):
    extra = data.draw(st.integers(1, batch_size - 1))
    has_motion = np.random.default_rng(0).permutation(
        [True] * len(with_motion) + [False] * len(without)
    )
    lengths = np.empty(len(has_motion), int)
    lengths[has_motion], lengths[~has_motion] = with_motion, without
    sampler, visits = (
        LengthBucketSampler(lengths, batch_size, has_motion, extra / batch_size, seed=2),
        np.zeros(len(lengths), int),
    )
    for epoch in range(3):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler) and all(
            sum(not has_motion[i] for i in batch) == extra for batch in batches
        )
        assert (
            sorted(i for batch in batches for i in batch if has_motion[i])
            == np.flatnonzero(has_motion).tolist()
        )
        visits += np.bincount(sum(batches, []), minlength=len(lengths))
    assert visits[~has_motion].max() - visits[~has_motion].min() <= 1 and visits.sum() == 3 * (
        len(with_motion) + extra * len(sampler)
    )


def test_epochs_and_seeds_differ():
    order = {}
    for seed in (0, 1):
        for epoch in (0, 1):
            sampler = LengthBucketSampler(list(range(4, 404, 4)), 8, seed=seed)
            sampler.set_epoch(epoch)
            order[seed, epoch] = str(list(sampler))
    assert len(set(order.values())) == 4


@pytest.mark.parametrize(
    "arguments",
    [
        {"batch_size": 0},
        {"lengths": []},
        {"sound_only_share": 0.5},
        {"sound_only_share": 0.01, "has_motion": [True, False]},
        {"sound_only_share": 0.5, "has_motion": [True, True]},
        {"sound_only_share": 0.5, "has_motion": [True]},
    ],
)
def test_sampler_refuses(arguments):
    with pytest.raises(ValueError):
        LengthBucketSampler(**{"lengths": [4, 8], "batch_size": 4} | arguments)
