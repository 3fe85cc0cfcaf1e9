"""Each file is a line in a terminal, a row or a JSON object in a pipe, and an exit code for a script."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from rich.console import Console

import hybrid_pruning.cli.detect
from corpus import SAMPLE_RATE_HZ, noise, tiny_detector
from hybrid_pruning import console as terminal
from hybrid_pruning.errors import InputError
from hybrid_pruning.models.calibration import Calibration, Fit
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.scoring.scores import score_paths
from hybrid_pruning.scoring.verdicts import Detection, Unreadable, detect, find_audio
from hybrid_pruning.tasks import Label
from sounds import encode
from world import Result, run_main

NAMES = ["a.FLAC", "b.wav", "sub/[red]é.ogg", "sub/deep/c d.flac"]
Detect = Callable[..., Result]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and clips of different pitch in folders."""
    folder = tmp_path_factory.mktemp("clips")
    tiny_detector(folder / "wavlm").save_pretrained(folder / "model")
    for index, name in enumerate(("b.wav", "a.FLAC", "sub/[red]é.ogg", "sub/deep/c d.flac")):
        path = folder / "clips" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        wave = 0.3 * np.sin((0.1 + 0.3 * index) * np.arange(3000 + 9000 * index)) + noise(3000 + 9000 * index)
        soundfile.write(path, wave, SAMPLE_RATE_HZ)
    (folder / "clips" / "notes.txt").write_text("no audio")
    (folder / "clips" / "sub" / "x.wav").mkdir()
    (folder / "empty").mkdir()
    (folder / "bad.wav").write_text("no audio")
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> SpeechModel:
    return SpeechModel.from_pretrained(folder / "model")


@pytest.fixture
def paths(folder: Path) -> list[Path]:
    return find_audio(folder / "clips")


@pytest.fixture
def command(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Detect:
    """Run `detect` in the folder, its model given by the environment."""
    monkeypatch.setenv("HYBRID_PRUNING_MODEL", "model")

    def run(*arguments: str, stdin: str = "") -> Result:
        capsys.readouterr()
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        return Result(run_main(("detect", *arguments), folder), *capsys.readouterr())

    return run


def test_folders_are_searched_and_files_taken_as_they_are(folder: Path, paths: list[Path]):
    names = [path.relative_to(folder / "clips").as_posix() for path in paths]
    assert names == NAMES
    assert find_audio(folder / "clips" / "notes.txt") == [folder / "clips" / "notes.txt"]
    with pytest.raises(InputError, match=r"nowhere: no such file or folder"):
        find_audio("nowhere")
    with pytest.raises(InputError, match=r"empty: holds no audio files; looked for names that end in \.wav, "):
        find_audio(folder / "empty")


@pytest.mark.parametrize(("workers", "window_seconds"), [(0, 30.0), (2, 1.0)])
def test_detections_are_scores(model: SpeechModel, paths: list[Path], workers: int, window_seconds: float):
    found = [one for one in detect(model, paths, workers, window_seconds) if isinstance(one, Detection)]
    expected = score_paths(model, paths, workers=0, window_seconds=window_seconds)
    np.testing.assert_allclose([one.llr for one in found], expected, atol=1e-4)
    assert [one.path for one in found] == paths
    lengths = [soundfile.info(str(path)).duration for path in paths]
    assert [one.seconds for one in found] == pytest.approx(lengths, abs=1e-3)
    assert [one.windows for one in found] == [max(1, int(np.ceil(s / window_seconds))) for s in lengths]


def test_unreadable_files_keep_their_place(model: SpeechModel, folder: Path, paths: list[Path], tmp_path: Path):
    late = tmp_path / "late.flac"  # a good header, and nothing after it
    late.write_bytes(paths[0].read_bytes()[:200])
    found = list(detect(model, [folder / "bad.wav", paths[0], late, folder / "nowhere.wav", paths[1]], workers=0))
    assert [type(one) for one in found] == [Unreadable, Detection, Unreadable, Unreadable, Detection]
    assert "bad.wav: cannot be decoded" in found[0].reason  # type: ignore[union-attr]


def test_a_pipe_gets_columns(command: Detect, model: SpeechModel, paths: list[Path]):
    threshold = float(np.median(score_paths(model, paths, workers=0)))
    found = command("clips", "--threshold", str(threshold), "--workers", "0", "--window-seconds", "1")
    assert found.code == 0
    rows = [line.split("\t") for line in found.out.splitlines()]
    assert [row[4] for row in rows] == [f"clips/{name}" for name in NAMES]
    assert {row[0] for row in rows} == {"bonafide", "spoof"}
    assert all((float(row[1]) >= threshold) == (row[0] == "bonafide") for row in rows)
    assert [row[3] for row in rows] == ["1", "1", "2", "2"]
    assert found.err.startswith("hybrid-pruning: model is not calibrated: its LLRs rank files, ")
    assert found.err.count("\n") == 1


def test_json_is_one_object_a_line(command: Detect, model: SpeechModel, paths: list[Path]):
    found = command("clips/b.wav", "clips/sub", "--json", "--workers", "0", "--threshold", "-0.5")
    assert (found.code, found.err) == (0, "")
    records = [*map(json.loads, found.out.splitlines())]
    assert [record["path"] for record in records] == ["clips/b.wav", "clips/sub/[red]é.ogg", "clips/sub/deep/c d.flac"]
    assert set(records[0]) == {"path", "verdict", "llr", "threshold", "calibrated", "seconds", "windows", "silent"}
    expected = score_paths(model, paths[1:], workers=0)
    assert [record["llr"] for record in records] == pytest.approx(expected.tolist(), abs=1e-4)
    assert all((r["verdict"] == "bonafide") == (r["llr"] >= -0.5) for r in records)
    assert not any(record["calibrated"] for record in records)


def test_a_list_comes_in_on_standard_input(command: Detect):
    found = command("-", "clips/b.wav", "--json", "--workers", "0", stdin="clips/sub/deep/c d.flac\n\nclips/a.FLAC\r\n")
    names = [json.loads(line)["path"] for line in found.out.splitlines()]
    assert names == ["clips/sub/deep/c d.flac", "clips/a.FLAC", "clips/b.wav"]


def test_the_rest_is_scored_and_the_exit_code_is_2(command: Detect):
    found = command("bad.wav", "clips/b.wav", "nowhere.wav", "empty", "--json", "--workers", "0", "--fail-on-spoof")
    assert found.code == 2
    assert len(found.out.splitlines()) == 1
    names = [line.split(": ")[:2] for line in found.err.splitlines()]
    assert sorted(names) == [["hybrid-pruning", name] for name in ("bad.wav", "empty", "nowhere.wav")]


@pytest.mark.parametrize(("options", "code"), [("-99 --fail-on-spoof", 0), ("99 --fail-on-spoof", 3), ("99", 0)])
def test_spoofs_are_an_exit_code_if_asked_for(command: Detect, options: str, code: int):
    assert command("clips/b.wav", "--workers", "0", "--threshold", *options.split()).code == code


def test_mistakes_are_one_line(command: Detect, monkeypatch: pytest.MonkeyPatch):
    for arguments, expected in (
        ((), "detect: give a file, a folder, - for a list on stdin"),
        (("clips", "--model", "/no/where"), "/no/where: neither a folder"),
        (("clips", "--device", "gpu"), "device 'gpu' is unknown"),
        (("clips", "--window-seconds", "0.5"), "window-seconds"),
    ):
        found = command(*arguments)
        assert (found.code, found.out, found.err.count("\n")) == (2, "", 1), found
        assert expected in found.err
    monkeypatch.delenv("HYBRID_PRUNING_MODEL")
    assert "Missing option '--model' (env var: 'HYBRID_PRUNING_MODEL')" in command("clips").err


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_terminal_gets_a_bar(command: Detect, paths: list[Path], monkeypatch: pytest.MonkeyPatch, encoding: str):
    screen = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="replace")
    console = Console(file=screen, force_terminal=True, no_color=True, width=60, highlight=False)
    for place in (terminal, hybrid_pruning.cli.detect):
        monkeypatch.setattr(place, "console", console)
    assert command("clips/sub/deep", "clips/b.wav", "bad.wav", "--workers", "0", "--threshold", "99").code == 2
    screen.seek(0)
    lines = [line for line in screen.read().splitlines() if "LLR" in line]
    full, empty = ("█", "·") if encoding == "utf-8" else ("#", ".")
    assert all(full * 10 in line and empty * 10 in line for line in lines)
    assert "spoofed" in lines[0]
    assert "1.9 s" in lines[0]
    screen.seek(0)
    assert "0 bona fide, 2 spoofed, 1 could not be read; threshold 99" in screen.read()


@pytest.mark.parametrize(
    ("llr", "expected"),
    [(12.0, "··········│██████████"), (0.0, "··········│█·········"), (-4.6, "·····█████│··········")],
)
def test_a_bar_is_drawn_on_its_side_of_the_threshold(llr: float, expected: str):
    found = Detection(Path("a\nb.wav"), llr + 1.0, 3725.0, 125)
    line = "".join(span if isinstance(span, str) else span[0] for span in found.text(1.0))
    assert expected in line
    assert line.endswith("1:02:05 in 125 windows")
    assert found.verdict(1.0) == (Label.SPOOF if llr < 0 else Label.BONAFIDE), "the threshold itself is bona fide"


def test_a_calibrated_model_gives_calibrated_llrs(folder: Path, command: Detect):
    model = SpeechModel.from_pretrained(folder / "model")
    plain = score_paths(model, [folder / "clips" / "b.wav"], workers=0)
    model.calibration = Calibration((Fit(0.5, 3.0, 0.5, "scores.tsv", "keys.tsv", "", 1, 1),))
    model.save_pretrained(folder / "calibrated")
    found = command("clips/b.wav", "--model", "calibrated", "--workers", "0", "--json")
    record = json.loads(found.out)
    assert record["calibrated"]
    assert record["llr"] == pytest.approx(0.5 * plain[0] + 3.0, abs=1e-4)
    assert command("clips/b.wav", "--model", "calibrated", "--workers", "0").err == ""


def test_each_file_of_a_folder_is_scored_named_or_counted(command: Detect, folder: Path, tmp_path: Path):
    talks = tmp_path / "talks"
    (talks / "__MACOSX").mkdir(parents=True)
    (talks / "two.m4a").write_bytes(encode(noise(SAMPLE_RATE_HZ), "ipod", "aac"))
    for name in ("three.webm", "four.AMR", "five.aac", "six.mp4", "seven.sph", "eight.3gp", "nine.wma"):
        (talks / name).write_bytes(b"\x1aE\xdf\xa3" + bytes(500))
    for name in ("._two.m4a", ".old.wav", "__MACOSX/a.wav"):
        (talks / name).write_bytes(bytes([0, 5, 22, 7]) + bytes(4000))
    (talks / "read me.txt").write_text("no audio")
    found = command(str(talks), "--json", "--workers", "0")
    assert found.code == 2
    assert [json.loads(line)["path"] for line in found.out.splitlines()] == [str(talks / "two.m4a")]
    hidden, *faults = found.err.splitlines()
    assert hidden == f"hybrid-pruning: left out 3 hidden files, such as {talks}/._two.m4a"
    assert [line.split(": ")[1].rpartition("/")[2] for line in faults] == [
        "eight.3gp", "five.aac", "four.AMR", "nine.wma", "seven.sph", "six.mp4", "three.webm"
    ]  # fmt: skip


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf"), 1e300])
def test_windows_have_a_length(model: SpeechModel, command: Detect, paths: list[Path], seconds: float):
    with pytest.raises(InputError, match=r"^windows of \S+ s; expected more than 0 and less than"):
        list(detect(model, paths, 0, seconds))
    with pytest.raises(InputError, match=r"^windows of"):
        score_paths(model, paths, workers=0, window_seconds=seconds)
    found = command("clips", "--window-seconds", str(seconds))
    assert (found.code, found.out) == (2, "")
    assert "window" in found.err.splitlines()[-1]
