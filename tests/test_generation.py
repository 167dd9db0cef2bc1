"""Generation from end to end with a tiny pipeline of random weights: nothing here is about
quality, everything about being right.
"""

import json
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from talker_t2av.common import files
from talker_t2av.common.files import ClipFile, make_label, read_label, read_square
from talker_t2av.common.media import read_video, write_audio, write_video
from talker_t2av.inference.generate import Request, Settings, collect, generate
from talker_t2av.inference.pipeline import TalkerPipeline, profile_parts
from talker_t2av.inference.streaming import ahead, generate_long, join
from talker_t2av.inference.text_normalization import split_sentences, spoken_form
from talker_t2av.model.fast_heads import FastHeads, FusedHeads
from talker_t2av.model.flow import Sampling, sample_flow
from talker_t2av.model.head import stack_streams, unstack_streams
from talker_t2av.model.talker import PatchNoise

# two steps; never stops by itself, so the length is the bound from the text
FEW = Settings(num_steps=2, stop_threshold=1.0)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A tiny pipeline, saved and loaded again."""
    folder = tmp_path_factory.mktemp("pipeline")
    made = TalkerPipeline.untrained("tiny", seed=1)
    made.save_pretrained(folder)
    loaded = TalkerPipeline.from_pretrained(folder)
    for kind in ("talker", "audio_codec", "motion_codec", "speaker_encoder"):
        for (name, a), b in zip(
            getattr(made, kind).state_dict().items(), getattr(loaded, kind).state_dict().values()
        ):
            assert torch.equal(a, b), name
    return loaded


def request(pipeline, text="Hi.", seed=0, **given) -> Request:
    streams = pipeline.talker.config.streams
    generator = torch.Generator().manual_seed(5)
    speaker = torch.randn(streams["audio"].condition_dim, generator=generator)
    return Request(
        text,
        speaker / speaker.norm(),
        **({"first_motion": torch.zeros(streams["motion"].latent_dim)} | given),
        seed=seed,
    )


def run(pipeline, *requests, settings=FEW, heads=None):
    return collect(generate(pipeline.talker, pipeline.tokenizer, requests, settings, heads))


def test_rows_of_a_batch_are_what_they_are_alone(pipeline):
    """Texts of different lengths end at their own bounds, and company changes
    nothing but rounding.
    """
    requests = [
        request(pipeline, text, seed)
        for seed, text in enumerate(["Hi.", "Good morning, all.", "No?"])
    ]
    rows = run(pipeline, *requests)
    assert len({len(row.audio) for row in rows}) > 1
    for one, row in zip(requests, rows):
        alone = run(pipeline, one)[0]
        torch.testing.assert_close(alone.audio, row.audio, atol=1e-3, rtol=0)
        torch.testing.assert_close(alone.motion, row.motion, atol=1e-3, rtol=0)
        torch.testing.assert_close(alone.stop, row.stop, atol=1e-3, rtol=0)


def test_a_row_that_has_ended_stays_ended(pipeline):
    """A stop probability that falls again revives nobody, and nobody waits for
    another row's alarm.
    """
    wavering = iter([0.9, 0.1] * 100)
    talker = pipeline.talker
    original = talker.stop.forward
    talker.stop.forward = lambda hidden: torch.full((len(hidden),), next(wavering)).logit()
    try:
        steps = list(
            generate(
                talker,
                pipeline.tokenizer,
                [request(pipeline), request(pipeline, seed=1)],
                Settings(num_steps=2, min_patches=2, stop_threshold=0.5),
            )
        )
    finally:
        del talker.stop.forward
    assert talker.stop.forward == original and [step.ended.tolist() for step in steps] == [
        [False] * 2
    ] * 2 + [[True] * 2]


def test_same_seed_same_bits_and_streams_have_their_own_noise(pipeline):
    a, b, c = (
        run(pipeline, request(pipeline, seed=3))[0],
        run(pipeline, request(pipeline, seed=3))[0],
        run(pipeline, request(pipeline, seed=4))[0],
    )
    assert (
        torch.equal(a.audio, b.audio)
        and torch.equal(a.motion, b.motion)
        and not torch.equal(a.audio, c.audio)
    )
    noise = PatchNoise("audio", [7, 3], (4, 8))
    assert torch.equal(noise[2][1], PatchNoise("audio", [3], (4, 8))[2][0]) and not torch.equal(
        noise[0], PatchNoise("motion", [7, 3], (4, 8))[0]
    )


@pytest.mark.parametrize("fused", [False, True])
def test_given_streams_come_out_as_they_went_in(pipeline, fused):
    """A2V and V2A are as long as what is given; a beginning is reproduced and continued; the
    other stream does change.
    """
    heads = FastHeads(pipeline.talker.heads) if fused else None
    free = run(pipeline, request(pipeline))[0]
    a2v = run(pipeline, request(pipeline, audio=free.audio[:12]), heads=heads)[0]
    assert torch.equal(a2v.audio, free.audio[:12]) and len(a2v.motion) == 12
    v2a = run(pipeline, request(pipeline, motion=free.motion[:8]), heads=heads)[0]
    assert torch.equal(v2a.motion, free.motion[:8]) and len(v2a.audio) == 8
    on = run(
        pipeline,
        request(pipeline, audio=free.audio[:8], motion=free.motion[:8], seed=9),
        heads=heads,
    )[0]
    assert (
        torch.equal(on.audio[:8], free.audio[:8])
        and torch.equal(on.motion[:8], free.motion[:8])
        and len(on.audio) > 8
    )
    tts = run(pipeline, request(pipeline, first_motion=None), heads=heads)[0]
    assert tts.motion is None and len(tts.audio) == len(free.audio)


def test_requests_that_do_not_fit_are_refused(pipeline):
    sound = torch.zeros(8, pipeline.talker.config.streams["audio"].latent_dim)
    for wrong, message in (
        ([], "at least one"),
        ([request(pipeline), request(pipeline, first_motion=None)], r"requests\[1\]"),
        ([request(pipeline, audio=sound), request(pipeline, audio=sound[:4])], r"requests\[1\]"),
        ([request(pipeline, seed=-1)], "seed"),
    ):
        with pytest.raises(ValueError, match=message):
            generate(pipeline.talker, pipeline.tokenizer, wrong)
    for knob in (
        {"num_steps": 1},
        {"num_steps": 4.0},
        {"temperature": float("nan")},
        {"guidance_scale": -1},
        {"stop_threshold": 0},
        {"stop_streak": True},
    ):
        with pytest.raises(ValueError, match=next(iter(knob))):
            Settings(**knob)


def test_each_stream_has_its_own_temperature(pipeline):
    """Cold noise in one stream, warm in the other: seeds differ only in the warm one, as long as
    both have heard the same.
    """
    for cold, warm in (
        ("temperature", "motion_temperature"),
        ("motion_temperature", "temperature"),
    ):
        settings = Settings(num_steps=2, stop_threshold=1.0, **{cold: 0.0, warm: 1.0})
        first = [
            next(
                iter(
                    generate(
                        pipeline.talker,
                        pipeline.tokenizer,
                        [request(pipeline, seed=seed)],
                        settings,
                    )
                )
            )
            for seed in (0, 1)
        ]
        same, other = ("audio", "motion") if cold == "temperature" else ("motion", "audio")
        assert torch.equal(getattr(first[0], same), getattr(first[1], same))
        assert not torch.allclose(getattr(first[0], other), getattr(first[1], other), atol=1e-3)


def test_a_pipeline_lets_given_streams_lead(pipeline):
    """As far as the talker has practised, the right way for each job; what is given comes out as it
    went in.

    Whoever wants it in step says so.
    """
    from talker_t2av.model.talker import Talker

    torch.manual_seed(0)
    talker = Talker(replace(pipeline.talker.config, lead_patches=2)).eval()
    leading = TalkerPipeline(
        talker,
        pipeline.tokenizer,
        pipeline.audio_codec,
        pipeline.motion_codec,
        pipeline.speaker_encoder,
    )
    size = leading.motion_codec.config.image_size
    wav = 0.3 * np.sin(np.arange(960 * 16) * 0.05).astype(np.float32)
    film = np.random.default_rng(0).integers(0, 256, (16, size, size, 3), dtype=np.uint8)
    for given, lead in (({"audio": wav}, 2), ({"video": film}, -2)):
        plan = leading.plan("Hi.", voice=wav, num_steps=2, **given)
        assert plan.lead == lead == plan.report["lead"]
        assert [abs(leading.plan("Hi.", voice=wav, lead=k, **given).lead) for k in (0, 1)] == [0, 1]
        assert pipeline.plan("Hi.", voice=wav, **given).lead == 0  # has not practised it
        clip = leading.finish(plan, list(leading.play(plan)))
        assert len(clip.latents.audio) == len(clip.latents.motion) == 16 and len(clip.frames) == 16
        stream = "audio" if lead > 0 else "motion"
        assert torch.equal(getattr(clip.latents, stream), getattr(plan.request, stream))
    assert leading.plan("Hi.", voice=wav).lead == 0  # nothing is given


def test_long_rows_never_outgrow_the_backbone(pipeline):
    """The bound from the text is cut to the positions that are left."""
    from talker_t2av.inference.generate import room_for_patches

    c = pipeline.talker.config
    assert (
        room_for_patches(c, 10) == c.max_position_embeddings - 11
        and room_for_patches(c, 10**6) == 1
    )


SAMPLINGS = [
    Sampling(num_steps=4),
    Sampling(num_steps=3, guidance_scale=1.0),
    Sampling(num_steps=3, guidance_scale=3.0, zero_star=False, sway=0.0),
]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
@pytest.mark.parametrize("which", [("audio",), ("motion",), ("audio", "motion")], ids="+".join)
def test_fused_heads_equal_the_heads(pipeline, sampling, which):
    generator, streams = torch.Generator().manual_seed(0), pipeline.talker.config.streams
    random = lambda *shape: torch.randn(*shape, generator=generator)
    noise = stack_streams(random(3, 4, streams[name].latent_dim) for name in which)
    conditions = {
        "hidden": random(3, pipeline.talker.config.hidden_size),
        "previous_patch": stack_streams(random(3, 4, streams[name].latent_dim) for name in which),
        "global_condition": stack_streams(random(3, streams[name].condition_dim) for name in which),
    }
    heads = pipeline.talker.heads
    fused, plain = (
        sample_flow(some.select(which), noise, conditions, sampling, batch_dims=2)
        for some in (FastHeads(heads), heads)
    )
    torch.testing.assert_close(fused, plain, atol=1e-4, rtol=1e-4)
    for i, patch in enumerate(
        unstack_streams(fused, [streams[name].latent_dim for name in which])
    ):  # and each stream alone
        head, config = heads[which[i]], streams[which[i]]
        own = {
            "hidden": conditions["hidden"],
            "previous_patch": conditions["previous_patch"][:, i, :, : config.latent_dim],
            "global_condition": conditions["global_condition"][:, i, : config.condition_dim],
        }
        torch.testing.assert_close(
            patch,
            sample_flow(head, noise[:, i, :, : config.latent_dim], own, sampling),
            atol=1e-4,
            rtol=1e-4,
        )


def test_whoever_edits_the_head_hears_of_it(pipeline, monkeypatch):
    """Fused heads compare themselves with the plain ones when they are made."""
    from talker_t2av.model.head import DiffusionHead

    FusedHeads(pipeline.talker.heads)
    forward = DiffusionHead.forward
    monkeypatch.setattr(
        DiffusionHead,
        "forward",
        lambda self, *args, **kwargs: 1.01 * forward(self, *args, **kwargs),
    )
    with pytest.raises(ValueError, match="DiffusionHead"):
        FusedHeads(pipeline.talker.heads)


def test_fused_generation_equals_plain(pipeline):
    one = [request(pipeline, "Hello.", 2), request(pipeline, "No.", 3)]
    for plain, fused in zip(
        run(pipeline, *one), run(pipeline, *one, heads=FastHeads(pipeline.talker.heads))
    ):
        torch.testing.assert_close(fused.audio, plain.audio, atol=1e-3, rtol=0)
        torch.testing.assert_close(fused.motion, plain.motion, atol=1e-3, rtol=0)


def test_spoken_form_and_sentences():
    assert (
        spoken_form("Dr. Who owes me $1.01; it's 5%…")[0]
        == "Doctor Who owes me one dollar and one cent, it's five percent."
    )
    assert spoken_form("On Jan. 3rd")[0].endswith("third.") and spoken_form("naïve 🙂 café") == (
        "naive cafe.",
        "🙂 (slightly smiling face)",
    )
    assert split_sentences("One. Two! Three?") == ["One.", "Two!", "Three?"]
    for text in ("x" * 999, "word " * 300, "a, " * 200):
        assert all(
            2 <= len(part) <= 60 and part[-1] in ".!?"
            for part in split_sentences(spoken_form(text)[0], 60)
        )
    for wrong in ("", " ", "🙂", "?!", "Ω", "日本", "a" * 6000):
        with pytest.raises(ValueError, match="text"):
            spoken_form(wrong)


@pytest.mark.parametrize("carry", ["pose", "sentence"])
def test_long_text_is_one_clip(pipeline, carry):
    """Patches are numbered through; the second sentence begins from the first one's last pose,
    or goes on from all of it.
    """
    steps = list(
        generate_long(
            pipeline.talker, pipeline.tokenizer, request(pipeline, "No. Yes. No."), FEW, carry=carry
        )
    )
    assert [step.index for _, step in steps] == list(range(len(steps))) and {
        number for number, _ in steps
    } == {0, 1, 2}
    first = [step for number, step in steps if number == 0]
    alone = run(pipeline, request(pipeline, "No."))[0]
    assert torch.equal(torch.cat([step.audio[0] for step in first]), alone.audio)


def test_a_stream_is_the_clip_in_pieces(pipeline):
    clip, pieces = (
        pipeline("Good morning.", num_steps=2, seed=2),
        join(pipeline.stream("Good morning.", num_steps=2, seed=2)),
    )
    assert len(clip.audio) == 960 * len(clip.frames) == 960 * len(
        clip.latents.audio
    ) and clip.latents.motion.shape[0] == len(clip.frames)
    assert (
        np.abs(clip.audio - pieces.audio).max() < 1e-3
        and np.abs(clip.frames.astype(int) - pieces.frames).max() <= 2
    )
    again = pipeline("Good morning.", num_steps=2, seed=2)
    assert np.array_equal(clip.audio, again.audio) and np.array_equal(clip.frames, again.frames)


def test_closing_a_stream_ends_its_thread(pipeline):
    threads, cores = threading.active_count(), torch.get_num_threads()
    stream = pipeline.stream("A long sentence that nobody wants to hear to its end.", num_steps=2)
    next(stream)
    stream.close()
    assert threading.active_count() == threads and torch.get_num_threads() == cores

    def broken():
        yield 1
        raise RuntimeError("in the thread")

    with pytest.raises(RuntimeError, match="in the thread"):
        list(ahead(broken()))


def test_voices_and_faces_of_all_kinds(pipeline, tmp_path):
    named = pipeline.plan("Hi.", "ada", 3)
    from talker_t2av.inference.pipeline import named_voice

    write_audio(tmp_path / "ada.wav", named_voice("ada"))
    heard = pipeline.plan("Hi.", tmp_path / "ada.wav", named.portrait)
    assert torch.cosine_similarity(named.request.speaker, heard.request.speaker, dim=0) > 0.999
    assert torch.equal(named.request.first_motion, heard.request.first_motion)
    assert torch.equal(
        pipeline.plan("Hi.", named.request.speaker).request.speaker, named.request.speaker
    )
    for wrong in (
        {"voice": "adda"},
        {"voice": np.zeros(24_000, np.float32)},
        {"voice": tmp_path / "none.wav"},
        {"face": -1},
        {"face": np.zeros((5, 5, 3), np.uint8)},
    ):
        with pytest.raises((ValueError, FileNotFoundError)):
            pipeline.plan("Hi.", **wrong)


@pytest.mark.parametrize("ending", [".mp4", ".gif", ".wav"])
def test_files_are_labelled_and_the_same_each_time(pipeline, tmp_path, ending):
    clip = pipeline("Hi.", num_steps=2, seed=1)
    first, second = clip.save(tmp_path / f"a{ending}"), clip.save(tmp_path / f"b{ending}")
    label = read_label(first)
    assert (
        label["synthetic"] is True
        and label["seed"] == 1
        and label["num_steps"] == 2
        and "talker_t2av" in label["made_by"]
    )
    assert first.read_bytes() == second.read_bytes() and sorted(
        path.name for path in tmp_path.iterdir()
    ) == [f"a{ending}", f"b{ending}"]
    # straight into a file, without a clip in between
    pipeline.write(tmp_path / f"c{ending}", pipeline.plan("Hi.", num_steps=2, seed=1))
    assert first.read_bytes() == (tmp_path / f"c{ending}").read_bytes()
    if ending == ".mp4":
        frames, rate = read_video(first)
        assert rate == 25 and len(frames) == len(clip.frames)
        # compressed, but the same pictures
        assert np.abs(frames.astype(int) - clip.frames).mean() < 12


def test_label_survives_awkward_characters(tmp_path):
    """Quotes, backslashes, signs of ffmpeg's own notation, other scripts: the label read
    is the label written.
    """
    label = make_label({"text": 'say "a=b; #c \\ d" é 你好', "n": 1.5})
    for ending in (".mp4", ".gif", ".wav", ".flac"):
        with ClipFile(tmp_path / f"x{ending}", label) as file:
            file.write(np.zeros(3840, np.float32), np.zeros((4, 32, 32, 3), np.uint8))
        assert read_label(tmp_path / f"x{ending}") == json.loads(label), ending
    (tmp_path / "y.mp4").write_bytes(b"no film")
    assert read_label(tmp_path / "y.mp4") is None


@pytest.mark.parametrize("accident", [KeyboardInterrupt, OSError, ValueError])
@pytest.mark.parametrize("ending", [".mp4", ".gif", ".wav"])
def test_an_accident_leaves_nothing(tmp_path, ending, accident):
    (tmp_path / f"x{ending}").write_text("before")
    with pytest.raises(accident), ClipFile(tmp_path / f"x{ending}", "label") as file:
        file.write(np.zeros(3840, np.float32), np.zeros((4, 32, 32, 3), np.uint8))
        raise accident("in the middle")
    assert [path.name for path in tmp_path.iterdir()] == [f"x{ending}"] and (
        tmp_path / f"x{ending}"
    ).read_text() == "before"


def test_full_disk(pipeline, tmp_path, monkeypatch):
    """The encoder writes to a device that refuses every byte: OSError, and nothing is left."""
    start = files.VideoWriter._start

    def on_a_full_disk(self, *size):
        self.silent = "/dev/full"
        start(self, *size)

    monkeypatch.setattr(files.VideoWriter, "_start", on_a_full_disk)
    threads = lambda: {
        thread.ident for thread in threading.enumerate() if thread.name != "tqdm_monitor"
    }  # that one belongs to the bars, and stays
    before = threads()
    with pytest.raises(OSError, match="cannot write"):
        pipeline("Hi.", num_steps=2).save(tmp_path / "x.mp4")
    with pytest.raises(
        OSError, match="cannot write"
    ) as kept:  # the error is still held, and with it the frames it went through
        pipeline.write(
            tmp_path / "x.mp4",
            pipeline.plan("A text of some length, so that the thread has work left.", num_steps=2),
        )
    assert kept.value and threads() == before and not list(tmp_path.iterdir())


def test_any_picture_becomes_a_square(tmp_path):
    """Upright 4K, wide, tiny: a square from the upper middle, at 25 frames a second,
    however the film is.
    """
    tall = np.zeros((3, 3840, 2160, 3), np.uint8)
    tall[:, 560:2720] = 200  # where the square is cut out
    write_video(tmp_path / "tall.mp4", tall, quality=30)
    frames = read_square(tmp_path / "tall.mp4", 64, 10)
    assert frames.shape[1:] == (64, 64, 3) and len(frames) == 3 and frames.min() > 150
    write_video(tmp_path / "wide.mp4", np.zeros((2, 20, 60, 3), np.uint8))
    assert read_square(tmp_path / "wide.mp4", 32).shape == (1, 32, 32, 3)


def test_profile_names_every_part(pipeline):
    parts = profile_parts(pipeline, "Hi.", patches=3, num_steps=2)
    assert {"both heads", "sound decoder", "portrait decoder", "backbone and text"} <= set(
        parts
    ) and all(ms >= 0 for ms in parts.values())
    assert "forward" not in vars(pipeline.talker.backbone) and "render" not in vars(
        pipeline.motion_codec
    )
