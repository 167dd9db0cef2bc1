"""What careless and hostile input may not do: delete a user's files, replace an input, fill the
memory, open other files, or pass for success.
"""

import shutil
import subprocess
import tracemalloc

import imageio_ffmpeg
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from talker_t2av.cli import main
from talker_t2av.common import files, media
from talker_t2av.common.media import (
    SAMPLE_RATE,
    check_wav,
    load_torchaudio,
    read_audio,
    read_video,
    write_video,
)
from talker_t2av.training import latents
from talker_t2av.world.build import build_corpus

FRAMES = np.random.default_rng(0).integers(0, 255, (8, 64, 64, 3), dtype=np.uint8)


def tone(rate: int, hertz: float = 440.0, seconds: float = 1.0) -> np.ndarray:
    """A sine of half scale."""
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)


# Hidden files in a folder that is built

MINE = {
    ".bashrc": "alias",
    ".env": "secret",
    ".gitignore": "*.flac",
    ".train-notes.txt": "notes",
    ".build-12345678.txt": "notes",
    ".other-a1b2c3d4.json": "notes",
    ".git/config": "[core]",
}


def plant(folder):
    for name, text in MINE.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def planted(folder):
    return {name: (folder / name).read_text() for name in MINE}


def build_small(folder):
    build_corpus(folder, 2, "train", size=32, video=False, workers=1)


def encode_small(folder):
    source = latents.WorldSource(2, "train", sound_only=1.0)
    latents.build_latents(folder, source, latents.CodecNames("pca", "track"), workers=1)


@pytest.mark.parametrize("start", [build_small, encode_small])
def test_a_foreign_folder_is_refused_and_left_as_it_was(tmp_path, start):
    (tmp_path / "letter.txt").write_text("dear")
    plant(tmp_path)
    with pytest.raises(ValueError, match="is not empty"):
        start(tmp_path)
    assert planted(tmp_path) == MINE and (tmp_path / "letter.txt").read_text() == "dear"
    assert len(list(tmp_path.iterdir())) == 1 + len(MINE)


@pytest.mark.parametrize(
    "start, own",
    [
        (
            build_small,
            [
                ".build-a1b2c3d4.json",
                ".manifest-a1b2c3d4.csv",
                "clips/00000/.train-000000001-_1b2c3d4.flac",
                "clips/00000/.train-000000000-a1b2c3d4.safetensors",
            ],
        ),
        (
            encode_small,
            [
                ".build-a1b2c3d4.json",
                ".index-a1b2c3d4.json",
                ".shard-00000-a1b2c3d4.safetensors",
            ],
        ),
    ],
)
def test_only_leftovers_of_the_build_itself_are_swept_away(tmp_path, start, own):
    """They go, also from a folder in which nothing else is yet; hidden files of others stay."""
    (tmp_path / own[0]).write_text("half")
    start(tmp_path)
    assert not (tmp_path / own[0]).exists()
    plant(tmp_path)
    for name in own:
        (tmp_path / name).write_text("half")
    start(tmp_path)
    assert not any((tmp_path / name).exists() for name in own)
    assert planted(tmp_path) == MINE


def test_a_damaged_shard_does_not_enter_the_index(tmp_path):
    """One flipped bit: the same command names the file, and changes nothing."""
    encode_small(tmp_path)
    path = latents.shard_path(tmp_path, 0)
    whole, index = path.read_bytes(), (tmp_path / "index.json").read_bytes()
    damaged = bytearray(whole)
    damaged[-50] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match="shard-00000.safetensors is damaged"):
        encode_small(tmp_path)
    assert (tmp_path / "index.json").read_bytes() == index
    path.unlink()
    encode_small(tmp_path)
    assert path.read_bytes() == whole and (tmp_path / "index.json").read_bytes() == index


# Sound at any rate


@pytest.mark.parametrize("rate", [44_101, 47_999, 23_999, 191_999])
def test_sound_at_an_odd_rate_takes_little_memory(tmp_path, rate):
    path = tmp_path / "odd.wav"
    soundfile.write(path, tone(rate, seconds=0.25), rate, subtype="FLOAT")
    read_audio(path)  # imports are not counted
    tracemalloc.start()
    try:
        heard = read_audio(path)
        assert tracemalloc.get_traced_memory()[1] < 60e6
    finally:
        tracemalloc.stop()
    assert abs(len(heard) - SAMPLE_RATE // 4) <= 1
    assert np.abs(heard - tone(SAMPLE_RATE)[: len(heard)])[200:-200].max() < 2e-3


def test_usual_rates_never_take_the_way_of_odd_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(media, "interpolate", None)
    functional = load_torchaudio().functional
    for rate in (8_000, 11_025, 12_000, 16_000, 22_050, 32_000, 44_100, 48_000, 96_000, 192_000):
        path = tmp_path / f"{rate}.wav"
        soundfile.write(path, tone(rate, seconds=0.1), rate, subtype="FLOAT")
        stored = torch.from_numpy(soundfile.read(path, dtype="float32")[0])
        assert (read_audio(path) == functional.resample(stored, rate, SAMPLE_RATE).numpy()).all()


def test_odd_rates_do_not_fold_high_tones_down():
    """A tone over half of the new rate is gone, not heard as another one."""
    made = media.resample(tone(47_999, 15_000).astype(np.float32), 47_999, SAMPLE_RATE)
    assert np.abs(made[500:-500]).max() < 5e-3


@pytest.mark.parametrize("rate", [1, 999, 2_000_000])
def test_a_rate_that_no_sound_has_is_refused(tmp_path, rate):
    path = tmp_path / "wrong.wav"
    soundfile.write(path, tone(8_000), rate)
    with pytest.raises(ValueError, match=f"wrong.wav.*{rate:,}"):
        read_audio(path)


def test_a_long_recording_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "long.wav"
    soundfile.write(path, np.zeros(200 * 8_000, np.int16), 8_000)
    read_audio(path, longest=200)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="long.wav.*longer than 60 s"):
            files.read_speech(path)
        assert tracemalloc.get_traced_memory()[1] < 6e6
    finally:
        tracemalloc.stop()


# Samples that are no floats in [-1, 1]


@pytest.mark.parametrize("kind", [np.int16, np.int32])
def test_whole_numbers_become_floats(tmp_path, kind):
    full = -int(np.iinfo(kind).min)
    samples = np.array([-full, 0, full // 2], kind)
    assert check_wav(samples).tolist() == [-1.0, 0.0, 0.5]
    media.write_audio(tmp_path / "whole.wav", samples)
    assert np.abs(read_audio(tmp_path / "whole.wav") - [-1, 0, 0.5]).max() < 1e-4


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.uint16, np.int64, bool, np.complex64])
def test_numbers_without_a_full_scale_are_refused(kind):
    with pytest.raises(ValueError, match=f"audio.*{np.dtype(kind)}"):
        check_wav(np.ones(4, kind), "audio")


def test_sound_over_full_scale_keeps_its_form():
    """Given as an array, the peak becomes 1, and nothing is cut off."""
    loud = 7 * tone(SAMPLE_RATE).astype(np.float32)
    heard = files.check_heard(check_wav(loud), "audio")
    assert np.abs(heard).max() == 1 and np.abs(heard - loud / 3.5).max() < 1e-3
    quiet = loud / 10
    assert (files.check_heard(quiet, "audio") == quiet).all()


def test_a_file_over_full_scale_keeps_its_form(tmp_path):
    path = tmp_path / "loud.wav"
    soundfile.write(path, 7 * tone(SAMPLE_RATE), SAMPLE_RATE, subtype="FLOAT")
    heard = files.read_speech(path)
    assert np.abs(heard).max() == 1 and np.abs(heard - 2 * tone(SAMPLE_RATE)).max() < 1e-3


def test_the_pipeline_hears_the_same_in_every_type():
    """int16, int32, floats, and floats that hold whole numbers: one recording."""
    from talker_t2av.inference.pipeline import hear_recording

    wav = tone(SAMPLE_RATE) / 0.5
    whole = np.round(wav * 32_767)
    heard = [
        hear_recording(whole.astype(np.int16)),
        hear_recording((whole * 65_536).astype(np.int32)),
        hear_recording(whole),
        hear_recording(wav),
    ]
    for other in heard[1:]:
        assert np.abs(other - heard[0]).max() < 1e-3


# The sound of films


@pytest.mark.parametrize("frames", [13, 16, 40])
def test_the_sound_of_a_film_is_as_long_as_its_pictures(tmp_path, frames):
    """The coder of the sound works in blocks and adds a part of one; nothing is shifted."""
    rng = np.random.default_rng(1)
    wav = 0.2 * rng.standard_normal(960 * frames).astype(np.float32)
    wav = np.convolve(wav, np.ones(12) / 4, mode="same")  # without what AAC leaves out
    write_video(tmp_path / "film.mp4", np.repeat(FRAMES[:1], frames, axis=0), wav)
    heard = files.film_sound(tmp_path / "film.mp4")
    assert len(heard) == len(wav)
    assert np.corrcoef(heard, wav)[0, 1] > 0.95


def test_sound_that_outlasts_the_pictures_is_kept(tmp_path):
    """A film with a second more of sound, and a recording with a single picture."""
    for frames in (1, 8):
        write_video(tmp_path / "film.mp4", FRAMES[:frames], tone(SAMPLE_RATE, seconds=2))
        assert len(files.film_sound(tmp_path / "film.mp4")) >= 2 * SAMPLE_RATE


def test_sound_is_kept_when_pictures_have_no_times(tmp_path):
    """As in an .avi with pictures that refer to later ones."""
    write_video(tmp_path / "made.mp4", np.repeat(FRAMES, 2, axis=0), tone(SAMPLE_RATE)[:15_360])
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error"]
    words = ["-c:v", "libx264", "-bf", "3", tmp_path / "film.avi"]
    subprocess.run([*command, "-i", tmp_path / "made.mp4", *words], check=True)
    assert len(files.film_sound(tmp_path / "made.mp4")) == 15_360
    assert len(files.film_sound(tmp_path / "film.avi")) >= 15_360


@pytest.mark.parametrize("name", ["voice", "audio"])
def test_errors_about_files_name_the_argument(tmp_path, name):
    (tmp_path / "list.txt").write_text("eggs")
    write_video(tmp_path / "mute.mp4", FRAMES)
    media.write_audio(tmp_path / "silent.wav", np.zeros(SAMPLE_RATE, np.float32))
    soundfile.write(tmp_path / "slow.wav", tone(8_000), 1)
    for file in ("none.wav", "none.mp4", "list.txt", "mute.mp4", "silent.wav", "slow.wav"):
        with pytest.raises((ValueError, FileNotFoundError), match=f"^{name}: .*{file}"):
            files.read_speech(tmp_path / file, name)
    for file in ("none.png", "list.txt", "bob"):
        with pytest.raises((ValueError, FileNotFoundError), match=f"^{name}: .*{file}"):
            files.read_square(tmp_path / file, 64, name=name)
        with pytest.raises((ValueError, FileNotFoundError), match=f"^{name}: .*{file}"):
            files.read_film(tmp_path / file, 64, name=name)


# Files that name other files


LISTS = {
    "concat": "ffconcat version 1.0\nfile secret.mp4\n",
    "playlist": ("#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nsecret.mp4\n#EXT-X-ENDLIST\n"),
    "session": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n",
}


@pytest.mark.parametrize("kind", LISTS)
@pytest.mark.parametrize("name", ["film.mp4", "film.mkv", "face.gif", "face.png"])
def test_a_list_opens_no_neighbour(tmp_path, kind, name):
    write_video(tmp_path / "secret.mp4", FRAMES, tone(SAMPLE_RATE), comment='{"synthetic": true}')
    path = tmp_path / name
    path.write_text(LISTS[kind])
    with pytest.raises(ValueError, match=name):
        files.read_square(path, 64)
    with pytest.raises(ValueError, match=name):
        read_video(path)
    assert files.read_label(path) is None
    if name.startswith("film"):
        with pytest.raises(ValueError, match=name):
            files.read_speech(path)
        with pytest.raises(ValueError, match=name):
            files.read_film(path, 64)


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "bmp", "gif"])
@pytest.mark.parametrize("ending", ["png", "jpg", "jpeg", "webp", "bmp", "gif"])
def test_pictures_are_read_whatever_their_ending_says(tmp_path, kind, ending):
    y, x = np.mgrid[:64, :64]
    picture = np.stack([4 * y, 4 * x, 128 + 0 * x], axis=2).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / f"a.{kind}")
    path = tmp_path / f"b.{ending}"
    shutil.copy(tmp_path / f"a.{kind}", path)
    assert np.abs(files.read_square(path, 64)[0].astype(int) - picture).mean() < 12


def test_a_percent_sign_names_no_other_picture(tmp_path):
    Image.fromarray(FRAMES[0]).save(tmp_path / "face3.png")
    with pytest.raises(FileNotFoundError):
        files.read_square(tmp_path / "face%d.png", 64)
    Image.fromarray(FRAMES[1]).save(tmp_path / "face%d.png")
    assert (files.read_square(tmp_path / "face%d.png", 64)[0] == FRAMES[1]).all()


@pytest.mark.parametrize("ending", files.FILMS)
def test_films_of_every_kind_are_read(tmp_path, ending):
    write_video(tmp_path / "made.mp4", FRAMES, tone(SAMPLE_RATE))
    path = tmp_path / f"film{ending}"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error"]
    subprocess.run([*command, "-i", tmp_path / "made.mp4", path], check=True)
    assert len(files.read_film(path, 64)) == 8
    if ending != ".m4v":  # which imageio does not know
        assert len(read_video(path)[0]) >= 8
    assert len(files.read_speech(path)) > SAMPLE_RATE // 4


# Outputs that are there already


def test_an_output_that_is_an_input_is_refused(tmp_path):
    film = write_video(tmp_path / "film.mp4", FRAMES)
    (tmp_path / "folder").mkdir()
    (tmp_path / "hard.mp4").hardlink_to(film)
    (tmp_path / "elsewhere").symlink_to(tmp_path)
    for name in ("film.mp4", "folder/../film.mp4", "hard.mp4", "elsewhere/film.mp4"):
        with pytest.raises(ValueError, match="output: .* is also an input"):
            files.check_output(tmp_path / name, ["ada", 7, None, str(film)])
        with pytest.raises(ValueError, match="output: .* is also an input"):
            files.check_output(film, [tmp_path / name])
    (tmp_path / "link.mp4").symlink_to(film)
    with pytest.raises(ValueError, match="is also an input"):
        files.check_output(film, [tmp_path / "link.mp4"])
    other = write_video(tmp_path / "other.mp4", FRAMES)
    assert files.check_output(other, [film]) == other
    assert files.check_output(tmp_path / "new.mp4", [film]) == tmp_path / "new.mp4"


def write_one(path):
    with files.ClipFile(path) as file:
        file.write(tone(SAMPLE_RATE), FRAMES)


def test_files_that_may_not_be_replaced_stay(tmp_path):
    kept = tmp_path / "kept.wav"
    kept.write_bytes(b"mine")
    kept.chmod(0o444)
    link = tmp_path / "link.wav"
    link.symlink_to(tmp_path / "target.wav")
    for path, reason in ((kept, "read-only"), (link, "symbolic link")):
        with pytest.raises(ValueError, match=reason):
            write_one(path)
    assert kept.read_bytes() == b"mine" and link.is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept.wav", "link.wav"]
    kept.chmod(0o644)
    write_one(kept)
    assert len(read_audio(kept)) == SAMPLE_RATE


@pytest.mark.parametrize(
    "words",
    [
        ("dub", "film.mp4", "Hi.", "-o", "film.mp4"),
        ("dub", "film.mp4", "Hi.", "-o", "hard.mp4"),
        ("drive", "film.mp4", "-o", "./film.mp4"),
        ("drive", "voice.wav", "Hi.", "--face", "film.mp4", "-o", "film.mp4"),
        ("say", "Hi.", "--voice", "film.mp4", "-o", "film.mp4"),
        ("say", "Hi.", "--face", "film.mp4", "-o", "film.mp4"),
        ("speak", "Hi.", "--voice", "voice.wav", "-o", "voice.wav"),
        ("say", "--lines", "lines.txt", "--face", "clips/002.mp4", "-o", "clips"),
        ("say", "Hi.", "-o", "link.mp4"),
        ("say", "Hi.", "-o", "kept.mp4"),
        ("demo", "Hi.", "-o", "show.mp4"),
        ("codecs", "Hi.", "-o", "kept.mp4"),
    ],
)
def test_commands_destroy_no_file(tmp_path, monkeypatch, capsys, words):
    """Refused in one line before a model is looked for, and all files stay."""
    monkeypatch.chdir(tmp_path)
    write_video("film.mp4", FRAMES, tone(SAMPLE_RATE))
    media.write_audio("voice.wav", tone(SAMPLE_RATE))
    write_video("clips/002.mp4", FRAMES)
    (tmp_path / "lines.txt").write_text("Come in.\nGo out.\n")
    (tmp_path / "hard.mp4").hardlink_to("film.mp4")
    (tmp_path / "link.mp4").symlink_to("film.mp4")
    for name in ("kept.mp4", "show_codecs.mp4"):
        (tmp_path / name).write_bytes(b"mine")
        (tmp_path / name).chmod(0o444)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert main([*words, "--model", "./nowhere"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "output: " in said
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_the_world_replaces_no_file_that_is_read_only(tmp_path, capsys):
    path = tmp_path / "kept.mp4"
    path.write_bytes(b"mine")
    path.chmod(0o444)
    assert main(["world", "Hi.", "--size", "32", "-o", str(path)]) == 2
    assert "output: " in capsys.readouterr().err and path.read_bytes() == b"mine"


@pytest.mark.parametrize("command", ["say", "speak", "drive", "dub", "demo", "codecs", "world"])
def test_help_says_what_happens_to_an_existing_output(capsys, command):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert "replaced" in capsys.readouterr().out


# Failures that look like success


@pytest.mark.parametrize("systems", [(), ("--systems", "T2AV")])
def test_evaluating_a_model_that_is_nowhere_fails(tmp_path, capsys, systems):
    words = ["evaluate", "--model", str(tmp_path / "nowhere"), "--n", "1", "--workers", "1"]
    places = ["--out", str(tmp_path / "result.json"), "--parts", str(tmp_path / "parts")]
    assert main([*words, *places, *systems]) == 2
    assert "nowhere" in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_an_output_that_leads_back_to_an_input_is_refused(tmp_path, monkeypatch):
    """`new/../me.mp4` is me.mp4, also while there is no folder `new`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "me.mp4").write_bytes(b"mine")
    with pytest.raises(ValueError, match="also an input"):
        files.check_output("new/../me.mp4", ["me.mp4"])
    assert files.check_output("new/../other.mp4", ["me.mp4"]).name == "other.mp4"
