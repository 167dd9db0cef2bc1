"""Clips, building (killed, resumed, side by side), checking, and the truth of the lips.

TALKER_T2AV_SLOW=1 adds the full-size versions.
"""

import csv
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from talker_t2av.world.build import (
    COLUMNS,
    RELEASED_COLUMNS,
    BuildSettings,
    build_corpus,
    check_corpus,
    demo_clip,
    file_sha256,
    only_builder,
    read_record,
)
from talker_t2av.world.corpus import make_clip
from talker_t2av.world.face.rendering import face_split
from talker_t2av.world.sentences import SPLITS, sentence_words
from talker_t2av.world.voice.voices import VOICES

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
SLOW = pytest.mark.skipif(
    not os.environ.get("TALKER_T2AV_SLOW"), reason="full size: set TALKER_T2AV_SLOW=1"
)
SMALL = {"size": 32, "tts_share": 0.5}


def sums(folder):
    return {
        path.relative_to(folder).as_posix(): file_sha256(path)
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Ten clips, two of them not of train; some with films, some sound only."""
    folder = tmp_path_factory.mktemp("corpus") / "ten"
    build_corpus(folder, 10, workers=1, **SMALL)
    return folder


@pytest.fixture
def copy(corpus, tmp_path):
    shutil.copytree(corpus, tmp_path / "copy")
    return tmp_path / "copy"


def rows_of(folder):
    with open(folder / "manifest.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# ---- clips


@pytest.mark.parametrize("split", SPLITS)
def test_clip_keeps_the_contract(split):
    clip = make_clip(3, split, size=32)
    n = clip.n_frames
    assert clip.wav.dtype == np.float32 and clip.wav.shape == (960 * n,) and n % 4 == 0
    assert np.abs(clip.wav).max() <= 1
    assert clip.frames.shape == (n, 32, 32, 3) and clip.frames.dtype == np.uint8
    assert len(clip.articulation) == len(clip.pose) == n
    assert clip.phonemes[0].start == 0 and abs(clip.phonemes[-1].end - n / 25) < 1e-6
    assert all(a.end == b.start for a, b in zip(clip.phonemes, clip.phonemes[1:]))
    assert (VOICES[clip.voice].split == "held-out") == (split == "test_voices")
    assert (face_split(clip.face) == "held-out") == (split == "test_faces")


def test_clip_is_a_pure_function():
    """Same bytes whatever was made before, whatever the number of threads, and the caller's
    thread count is left alone.
    """
    before = torch.get_num_threads()
    first = make_clip(8, "train", size=48)
    make_clip(9, "test", video=False)
    np.random.seed(5)
    torch.manual_seed(5)
    random.seed(5)
    torch.set_num_threads(2 if before == 1 else 1)
    changed = torch.get_num_threads()
    again = make_clip(8, "train", size=48)
    assert torch.get_num_threads() == changed
    torch.set_num_threads(before)
    for key in ("wav", "frames", "articulation", "pose"):
        assert getattr(first, key).tobytes() == getattr(again, key).tobytes(), key
    assert (first.text, first.voice, first.face, first.phonemes) == (
        again.text,
        again.voice,
        again.face,
        again.phonemes,
    )


def test_clips_differ():
    texts = {make_clip(i, "train", video=False).text for i in range(30)}
    assert len(texts) >= 28
    a = make_clip(1, "train", video=False, variation=0.0)
    b = make_clip(1, "train", video=False, variation=1.0)
    assert a.text == b.text and a.voice == b.voice
    assert [p.end for p in a.phonemes] != [p.end for p in b.phonemes]


def test_splits_share_no_sentence_voice_or_face():
    clips = {split: [make_clip(i, split, video=False) for i in range(12)] for split in SPLITS}
    texts = [{" ".join(sentence_words(c.text)) for c in found} for found in clips.values()]
    assert len(set.union(*texts)) == sum(map(len, texts))
    for kind, split in (("voice", "test_voices"), ("face", "test_faces")):
        assert not {getattr(c, kind) for c in clips[split]} & {
            getattr(c, kind) for s in SPLITS if s != split for c in clips[s]
        }


@pytest.mark.parametrize(
    "arguments", [{"seed": -1}, {"seed": 1.5}, {"split": "tests"}, {"size": 33}, {"size": 2}]
)
def test_bad_clip_arguments(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        make_clip(**{"seed": 1, "split": "train"} | arguments)


# ---- building


def test_corpus_is_sound(corpus):
    assert check_corpus(corpus, workers=1) == []
    rows = rows_of(corpus)
    assert tuple(rows[0]) == COLUMNS and COLUMNS[:9] == RELEASED_COLUMNS and len(rows) == 10
    assert {row["split"] for row in rows} == {"train", "validation", "test"}
    sound_only = [row for row in rows if not row["motion_pt_path"]]
    assert 0 < len(sound_only) < 10 and all(
        not row["video_path"] and row["dataset_source"].endswith("-tts") for row in sound_only
    )
    for row in rows:
        clip, tracks = (
            make_clip(int(row["seed"]), row["split"], video=False),
            load_file(corpus / row["truth_path"]),
        )
        assert (
            row["text"] == clip.text
            and np.array_equal(tracks["articulation"], clip.articulation)
            and np.array_equal(tracks["pose"], clip.pose)
        )
        assert [tuple(p) for p in read_record(corpus / row["truth_path"])["phonemes"]] == [
            tuple(p) for p in clip.phonemes
        ]


def test_other_workers_same_bytes(corpus, tmp_path):
    build_corpus(tmp_path / "two", 10, workers=2, **SMALL)
    assert sums(tmp_path / "two") == sums(corpus)
    build_corpus(tmp_path / "two", 10, workers=1, **SMALL)  # nothing to do
    assert sums(tmp_path / "two") == sums(corpus)


def test_grown_build_equals_a_large_one(corpus, tmp_path):
    build_corpus(tmp_path / "grown", 4, workers=1, **SMALL)
    build_corpus(tmp_path / "grown", 10, workers=1, **SMALL)
    assert sums(tmp_path / "grown") == sums(corpus)


def test_no_video_changes_nothing_else(corpus, tmp_path):
    build_corpus(tmp_path / "mute", 10, workers=1, video=False, **SMALL)
    assert not list(tmp_path.rglob("*.mp4")) and check_corpus(tmp_path / "mute", workers=1) == []
    for with_film, without in zip(rows_of(corpus), rows_of(tmp_path / "mute")):
        assert (
            with_film["wav_sha256"] == without["wav_sha256"]
            and with_film["motion_pt_path"] == without["motion_pt_path"]
        )


def test_another_build_is_refused(copy):
    before = sums(copy)
    for arguments in (
        {"size": 64},
        {"seed": 1},
        {"split": "test"},
        {"variation": 0.5},
        {"video": False},
        {"tts_share": 0.1},
    ):
        with pytest.raises(ValueError, match=f"different build.*{next(iter(arguments))}"):
            build_corpus(copy, 10, workers=1, **SMALL | arguments)
    with pytest.raises(ValueError, match="grow, not shrink"):
        build_corpus(copy, 3, workers=1, **SMALL)
    noted = json.loads((copy / "build.json").read_text())
    (copy / "build.json").write_text(json.dumps(noted | {"world": "another world's code"}))
    with pytest.raises(ValueError, match="world is"):
        build_corpus(copy, 10, workers=1, **SMALL)
    assert {k: v for k, v in sums(copy).items() if k != "build.json"} == {
        k: v for k, v in before.items() if k != "build.json"
    }


def test_other_folders_are_refused(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/me.jpg").write_text("x")
    with pytest.raises(ValueError, match="holds no build"):
        build_corpus(tmp_path / "photos", 1)
    with pytest.raises(ValueError, match="is a file"):
        build_corpus(tmp_path / "photos/me.jpg", 1)
    (tmp_path / "busy").mkdir()
    with only_builder(tmp_path / "busy"), pytest.raises(ValueError, match="another build"):
        build_corpus(tmp_path / "busy", 1)
    for arguments in (
        {"n_clips": 0},
        {"split": "tests"},
        {"size": 7},
        {"tts_share": 1.5},
        {"variation": -1},
        {"seed": -1},
        {"workers": 0},
    ):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            build_corpus(tmp_path / f"new{len(str(arguments))}", **{"n_clips": 1} | arguments)


def test_damage_is_mended_by_building_again(copy, corpus):
    """Lost or cut-off files and leftovers of a killed run: the same command
    makes the folder whole.
    """
    files = sorted(copy.glob("clips/*/*"))
    files[0].unlink()
    files[4].write_bytes(files[4].read_bytes()[:100])
    next(copy.glob("clips/*/*.safetensors")).write_bytes(b"cut off")
    (copy / "clips/00000/.train-000000000-abc123_z.flac").write_bytes(b"half")
    (copy / "manifest.csv").unlink()
    build_corpus(copy, 10, workers=1, **SMALL)
    assert sums(copy) == sums(corpus)


def killed_build(folder, moments, **arguments):
    """Start `build_corpus(folder, ...)` again and again in a process of its own; kill it a random
    while after so many clips are there.

    How often it was at work then.
    """
    context, kills, rng = multiprocessing.get_context("forkserver"), 0, random.Random(1)
    # the list of test_training_loop.py: one server serves a whole test run
    context.set_forkserver_preload(
        ["accelerate", "torch._dynamo", "talker_t2av.common.trainer", "talker_t2av.world.build"]
    )
    for moment in moments:
        process = context.Process(target=build_corpus, args=(folder,), kwargs=arguments)
        process.start()
        while process.is_alive() and len(list(folder.glob("clips/*/*.safetensors"))) < moment:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.03))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.join()
    return kills


def test_killed_at_five_random_moments(tmp_path):
    arguments = {"n_clips": 24, "split": "train", "size": 32, "tts_share": 0.8, "workers": 1}
    moments = sorted(random.Random(4).sample(range(18), 5))
    assert (
        killed_build(tmp_path / "killed", moments, **arguments) == 5
        and not (tmp_path / "killed/manifest.csv").exists()
    )
    build_corpus(tmp_path / "killed", **arguments)
    build_corpus(tmp_path / "peaceful", **arguments)
    assert sums(tmp_path / "killed") == sums(tmp_path / "peaceful")


def descendants(pid):
    listing = subprocess.run(
        ["ps", "-eo", "pid=,ppid="], capture_output=True, text=True
    ).stdout.split("\n")
    return [int(line.split()[0]) for line in listing if line.split()[1:] == [str(pid)]]


@SLOW
def test_killed_with_workers_full_size(tmp_path):
    """The same with films of 128 pixels and two workers; no worker outlives the build."""
    code = (
        "import sys; from talker_t2av.world.build import build_corpus\nif __name__ == '__main__': "
        "build_corpus(sys.argv[1], 60, workers=2)"
    )
    (tmp_path / "build.py").write_text(code)
    rng = random.Random(11)
    for moment in sorted(rng.sample(range(50), 5)):
        process = subprocess.Popen(
            [sys.executable, tmp_path / "build.py", tmp_path / "killed"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while process.poll() is None and (
            len(list(tmp_path.glob("killed/clips/*/*.safetensors"))) < moment
            or not descendants(process.pid)
        ):
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 1))
        children = descendants(process.pid)
        assert process.poll() is None, "the build should still be at work"
        process.kill()
        process.wait()
        # a worker that is still importing torch notices when that is done
        deadline = time.monotonic() + 60
        while left := [pid for pid in children if Path(f"/proc/{pid}").exists()]:
            assert time.monotonic() < deadline, f"workers {left} outlived the build"
            time.sleep(0.1)
    for folder in ("killed", "peaceful"):
        subprocess.run([sys.executable, tmp_path / "build.py", tmp_path / folder], check=True)
    assert (
        sums(tmp_path / "killed") == sums(tmp_path / "peaceful")
        and check_corpus(tmp_path / "killed", workers=1) == []
    )


# ---- checking


def edit_row(folder, **cells):
    """Change cells of the first row that has a film; its new content."""
    rows = rows_of(folder)
    row = next(row for row in rows if row["video_path"])
    row |= cells
    with open(folder / "manifest.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return row


def damage(folder, kind):
    """One kind of damage to the corpus in `folder`; a word that its fault must hold."""
    row = edit_row(folder)
    wav, film, truth = (folder / row[key] for key in ("wav_path", "video_path", "truth_path"))
    if kind == "lost sound":
        wav.unlink()
        return "missing"
    if kind == "lost film":
        film.unlink()
        return "missing"
    if kind == "lost truth":
        truth.unlink()
        return "missing"
    if kind in ("sound bit", "film bit", "truth bit"):
        path = {"sound": wav, "film": film, "truth": truth}[kind.split()[0]]
        data = bytearray(path.read_bytes())
        data[-20] ^= 4
        path.write_bytes(data)
        return "checksum"
    if kind == "gap in phonemes" or kind == "short track":
        record, tracks = read_record(truth), load_file(truth)
        if kind == "short track":
            tracks["pose"] = tracks["pose"][:-1].copy()
        else:
            del record["phonemes"][2]
        save_file(tracks, truth, metadata={"clip": json.dumps(record)})
        edit_row(folder, truth_sha256=file_sha256(truth))
        return "pose has shape" if kind == "short track" else "tile"
    if kind == "extra file":
        (folder / "clips/00000/notes.txt").write_text("x")
        return "notes.txt: not in the manifest"
    cells, word = {
        "n_samples": ({"n_samples": "1"}, "960 for each"),
        "not a number": ({"pt_length": "many"}, "whole numbers"),
        "odd length": ({"pt_length": "3"}, "multiple of 4"),
        "fps": ({"fps": "30"}, "fps is 30"),
        "other text": ({"text": "Hello there."}, "text is 'Hello there.'"),
        "other split": ({"split": "test_words"}, "belongs to"),
        "same name": ({"sample_id": rows_of(folder)[-1]["sample_id"]}, "appears 2 times"),
    }[kind]
    edit_row(folder, **cells)
    return word


@pytest.mark.parametrize(
    "kind",
    [
        "lost sound",
        "lost film",
        "lost truth",
        "sound bit",
        "film bit",
        "truth bit",
        "gap in phonemes",
        "short track",
        "extra file",
        "n_samples",
        "not a number",
        "odd length",
        "fps",
        "other text",
        "other split",
        "same name",
    ],
)
def test_each_fault_has_a_name(copy, kind):
    word = damage(copy, kind)
    faults = check_corpus(copy, workers=1)
    assert any(word in fault for fault in faults), faults


def test_check_refuses_what_is_no_corpus(tmp_path, copy):
    with pytest.raises(FileNotFoundError, match="manifest"):
        check_corpus(tmp_path)
    (copy / "manifest.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="columns"):
        check_corpus(copy)


# ---- the truth of the lips


def test_lip_truth():
    from world_checks import broken_limits, check_world

    found = check_world(12)
    assert found["p_b_m"] >= 10 and not broken_limits(found), found


def test_stored_lip_truth_is_full_size():
    from world_checks import broken_limits

    from talker_t2av.common.media import data_dir

    stored = json.loads((data_dir() / "results/world_checks.json").read_text())["values"]
    assert stored["clips"] >= 200 and not broken_limits(stored)


# ---- one sentence


def test_demo_clip(tmp_path):
    a = demo_clip("Peter, Bob and Mary hum.", out=tmp_path / "a.mp4", size=64)
    b = demo_clip("Peter, Bob and Mary hum.", out=tmp_path / "b.mp4", size=64)
    assert a.read_bytes() == b.read_bytes() and sorted(p.name for p in tmp_path.iterdir()) == [
        "a.mp4",
        "b.mp4",
    ]
    for bad in ({"text": ""}, {"voice": "nobody"}, {"out": tmp_path / "c.gif"}, {"size": 5}):
        with pytest.raises(ValueError):
            demo_clip(**{"text": "Hello.", "out": tmp_path / "c.mp4"} | bad)
    assert len(list(tmp_path.iterdir())) == 2


def test_settings_do_not_depend_on_the_number_of_clips():
    settings = BuildSettings(tts_share=0.3)
    assert [settings.clip(i) for i in range(50)] == [settings.clip(i) for i in range(100)][:50]
    assert {settings.clip(i)[0] for i in range(25)} == set(SPLITS) and abs(
        np.mean([settings.clip(i)[2] for i in range(3_000)]) - 0.3
    ) < 0.04


def test_the_commands_load_without_torch():
    """`talker-t2av corpus --help` answers at once: what is heavy is imported where it is used."""
    code = "import sys, talker_t2av.world.build; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
