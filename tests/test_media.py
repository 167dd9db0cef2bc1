"""Files are whole or not there; wrong input is named before any work."""

import errno
import subprocess
import sys
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from talker_t2av.common import media
from talker_t2av.common.media import (
    SAMPLE_RATE,
    atomic_path,
    read_audio,
    read_video,
    write_audio,
    write_video,
)

TONE = (0.2 * np.sin(np.arange(SAMPLE_RATE) / 10)).astype(np.float32)
FRAMES = np.random.default_rng(0).integers(0, 255, (8, 32, 48, 3), dtype=np.uint8)


def test_stereo_44k_mp3_becomes_mono_24k(tmp_path):
    import soundfile

    stereo = np.stack([0.3 * np.sin(2 * np.pi * 440 * np.arange(44_100) / 44_100)] * 2, axis=1)
    soundfile.write(tmp_path / "stereo.mp3", stereo, 44_100)
    wav = read_audio(tmp_path / "stereo.mp3")
    assert wav.dtype == np.float32 and wav.ndim == 1 and abs(len(wav) - SAMPLE_RATE) < 3000
    assert abs(np.abs(np.fft.rfft(wav[2000:22_000])).argmax() * SAMPLE_RATE / 20_000 - 440) < 3


def test_a_full_disk_leaves_the_old_file(tmp_path):
    """An error in the middle of writing keeps what was there and leaves nothing beside it."""
    target = tmp_path / "keep.wav"
    write_audio(target, TONE)
    before = target.read_bytes()
    with pytest.raises(OSError), atomic_path(target) as temporary:
        temporary.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert target.read_bytes() == before and list(tmp_path.iterdir()) == [target]


def test_files_get_the_usual_permissions(tmp_path):
    (tmp_path / "plain").write_text("")
    write_audio(tmp_path / "tone.flac", TONE)
    assert (tmp_path / "tone.flac").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_video_has_sound_and_metadata(tmp_path):
    path = write_video(tmp_path / "clip.mp4", FRAMES, TONE[: 8 * 960], comment="synthetic; seed 3")
    report = subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-i", path], capture_output=True, text=True
    ).stderr
    assert (
        "Audio: aac" in report
        and "24000 Hz" in report
        and "synthetic; seed 3" in report
        and "25 fps" in report
    )
    frames, rate = read_video(path)
    assert frames.shape == FRAMES.shape and rate == 25


def test_a_failing_encoder_leaves_nothing(tmp_path, monkeypatch):
    # a program that is no ffmpeg
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: sys.executable)
    with pytest.raises(OSError, match="ffmpeg failed"):
        write_video(tmp_path / "clip.mp4", FRAMES)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "frames", [FRAMES[0], FRAMES.astype(np.float32), FRAMES[:, :31], FRAMES[:0], FRAMES[..., :2]]
)
def test_wrong_frames(tmp_path, frames):
    with pytest.raises(ValueError, match="frames"):
        write_video(tmp_path / "clip.mp4", frames)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wav", [TONE[None], TONE[:0], np.where(TONE > 0.1, np.nan, TONE)])
def test_wrong_sound(tmp_path, wav):
    with pytest.raises(ValueError, match="wav"):
        write_audio(tmp_path / "tone.wav", wav)
    assert not list(tmp_path.iterdir())


def test_wrong_files(tmp_path):
    (tmp_path / "text.mp4").write_text("not a film")
    (tmp_path / "text.wav").write_text("not a sound")
    with pytest.raises(ValueError, match="text.mp4"):
        read_video(tmp_path / "text.mp4")
    with pytest.raises(ValueError, match="text.wav"):
        read_audio(tmp_path / "text.wav")
    for read in (read_audio, read_video):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            read(tmp_path / "nowhere.wav")
    with pytest.raises(ValueError, match=".mp4"):
        write_video(tmp_path / "clip.avi", FRAMES)


def test_torchaudio_beside_a_cpu_only_torch(tmp_path):
    """When the plain import fails as the CUDA build does, the second way in works;
    checked in a fresh process.
    """
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torchaudio._extension': raise OSError('libc10_cuda.so: cannot open "
        "shared object file')\n"
        "sys.meta_path.insert(0, Refuse())\n"
    )
    code = (
        "import torch; from talker_t2av.common.media import load_torchaudio; "
        "print(load_torchaudio().functional.resample(torch.ones(441), 44100, 24000).shape[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(tmp_path), "PATH": ""},
    )
    assert done.returncode == 0 and done.stdout.strip() == "240", done.stderr


def test_data_dir_names_the_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("TALKER_T2AV_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="TALKER_T2AV_DATA"):
        media.data_dir()
    assert Path(media.project_dir() / "talker_t2av").is_dir()
