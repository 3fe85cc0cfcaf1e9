"""The command `prepare`: what it prints, what it refuses, and that its help teaches."""

import re
from operator import attrgetter

import pytest
import soundfile
from typer.testing import CliRunner

from corpus import files_below, noise, touch
from hybrid_pruning.cli import app
from hybrid_pruning.data.checks import CACHE
from hybrid_pruning.data.corpora import CORPORA
from hybrid_pruning.data.manifest import read_manifest
from sounds import encode


@pytest.fixture
def root(tmp_path):
    """In-the-Wild, as far as two files of half a second go."""
    folder = tmp_path / "release_in_the_wild"
    folder.mkdir()
    (folder / "meta.csv").write_text("file,speaker,label\n0.wav,Alec Guinness,spoof\n1.wav,Alec Guinness,bona-fide\n")
    for name in ("0.wav", "1.wav"):
        soundfile.write(folder / name, noise(8_000), 16_000)
    return folder


@pytest.fixture
def prepare(cli):
    return lambda *arguments: attrgetter("code", "out", "err")(cli("prepare", *map(str, arguments)))


def test_manifests_with_durations_and_without(prepare, root, tmp_path):
    out = tmp_path / "manifests"
    code, printed, errors = prepare("in-the-wild", "--root", root, "--out", out, "--workers", "2")
    assert code == 0
    assert printed.splitlines() == [
        f"eval: {out / 'eval.tsv'} (1 bona fide, 1 spoofed)",
        f"next: hybrid-pruning score MODEL {out / 'eval.tsv'} --out scores.tsv",
    ]
    assert errors.splitlines() == [
        f"warning: {root / 'meta.csv'}: expected 19,963 bona fide and 11,816 spoofed utterances in eval, as released, "
        "found 1 and 1"
    ]
    assert [utterance.seconds for utterance in read_manifest(out / "eval.tsv")] == [0.5, 0.5]
    assert {path.name for path in files_below(out)} == {"eval.tsv", CACHE}
    for path in root.glob("*.wav"):
        path.write_bytes(b"")
    assert prepare("in-the-wild", "--root", root, "--out", tmp_path / "out", "--no-durations")[0] == 0
    assert {path.name for path in files_below(tmp_path / "out")} == {"eval.tsv"}


def test_missing_audio(prepare, root, tmp_path):
    (root / "0.wav").unlink()
    code, _, errors = prepare("in-the-wild", "--root", root, "--out", tmp_path / "out")
    assert (code, errors.count("\n")) == (2, 1)
    assert "1 of 2 audio files are missing" in errors
    (root / "1.wav").write_bytes(b"no audio")
    soundfile.write(root / "2.wav", noise(8_000), 16_000)
    with (root / "meta.csv").open("a") as handle:
        handle.write("2.wav,Alec Guinness,spoof\n")
    code, output, errors = prepare("in-the-wild", "--root", root, "--out", tmp_path / "out", "--allow-missing")
    assert code == 0
    assert "(0 bona fide, 1 spoofed)" in output, "what is left, not what was there"
    assert "1 of 3 audio files are missing" in errors
    assert "1 of 2 audio files cannot be used, first" in errors
    assert [utterance.utt_id for utterance in read_manifest(tmp_path / "out" / "eval.tsv")] == ["2"]


def test_a_folder_with_films_phones_and_macos_files(prepare, tmp_path):
    root = tmp_path / "set"
    names = ("bonafide/a.m4a", "bonafide/._a.m4a", "spoof/c.wma", "__MACOSX/spoof/._b.webm", "spoof/d.txt")
    touch(root, *names, "spoof/b.webm")
    for name in names:
        (root / name).write_bytes(b"\0\5\x16\7" + bytes(500))
    (root / "bonafide" / "a.m4a").write_bytes(encode(noise(16_000), "ipod", "aac"))
    (root / "spoof" / "b.webm").write_bytes(encode(noise(16_000), "webm", "libopus", 48_000))
    code, output, errors = prepare("folder", "--root", root, "--out", tmp_path / "out")
    assert code == 2
    assert "1 of 3 audio files cannot be used, first" in errors
    assert "spoof/c.wma (cannot be decoded" in errors
    code, output, errors = prepare("folder", "--root", root, "--out", tmp_path / "out", "--allow-missing")
    assert code == 0, errors
    assert "(1 bona fide, 1 spoofed)" in output
    assert "left out 2 hidden files, such as " in output


def test_help_lists_every_corpus_with_its_layout():
    found = " ".join(re.sub(r"[│╭╮╰╯─]", " ", CliRunner().invoke(app, ["prepare", "--help"]).output).split())
    for name, corpus in CORPORA.items():
        assert f" {name} " in found
        assert " ".join(corpus.contents.split()[:4]) in found


def test_speakers_and_trials_are_printed(prepare, tmp_path):
    for path in sorted(touch(tmp_path / "mine", *(f"s{n // 3}/{n % 3}.wav" for n in range(18))).rglob("*.wav")):
        soundfile.write(path, noise(800), 16_000)
    out, share = tmp_path / "out", ("--dev-share", "0.4", "--seed", "7")
    code, printed, errors = prepare("speaker-folder", "--root", tmp_path / "mine", "--out", out, *share)
    assert (code, errors) == (0, "")
    assert printed.splitlines() == [
        f"train: {out / 'train.tsv'} (4 speakers, 12 utterances)",
        f"dev: {out / 'dev.tsv'} (2 speakers, 6 utterances)",
        f"dev, trials: {out / 'dev.trials'}",
        "dev.trials: 6 target and 6 nontarget trials, drawn with seed 7 among the pairs of its utterances, 10,000 of "
        "either kind at most",
        f"next: hybrid-pruning train RECIPE --out RUN --set data.train={out / 'train.tsv'} "
        f"--set data.dev={out / 'dev.tsv'} --set data.trials.dev={out / 'dev.trials'}",
    ]


def test_the_next_command_where_there_is_training_data(prepare, tmp_path):
    root = touch(tmp_path / "mine", *(f"{label}/{n}.wav" for label in ("bonafide", "spoof") for n in range(10)))
    for path in root.rglob("*.wav"):
        soundfile.write(path, noise(800), 16_000)
    out, share = tmp_path / "out", ("--dev-share", "0.2", "--seed", "3")
    code, printed, errors = prepare("folder", "--root", root, "--out", out, *share)
    assert code == 0
    assert "(8 bona fide, 8 spoofed)" in printed
    assert "(2 bona fide, 2 spoofed)" in printed
    assert "train and dev may have speakers in common" in errors
    train, dev = out / "train.tsv", out / "dev.tsv"
    assert f"next: hybrid-pruning train RECIPE --out RUN --set data.train={train} --set data.dev={dev}\n" in printed
