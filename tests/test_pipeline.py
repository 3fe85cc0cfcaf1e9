"""The whole way from a raw corpus in ASVspoof 5's layout to table and report; what is current is not done again."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from corpus import MINUTE, SAMPLE_RATE_HZ, configure, files_below, noise, settings, write_wavlm
from hybrid_pruning import SpeechModel
from hybrid_pruning.config import Config
from hybrid_pruning.errors import InputError
from hybrid_pruning.jobs.pipeline import job, run_recipe
from hybrid_pruning.jobs.sweep.summary import read_swept, write_markdown
from hybrid_pruning.models.card import find_results

PARTS = {
    "T": ("flac_T", "ASVspoof5.train.tsv"),
    "D": ("flac_D", "ASVspoof5.dev.track_1.tsv"),
    "E": ("flac_E_eval", "ASVspoof5.eval.track_1.tsv"),
}
RELEASED = "{letter}_{speaker:04d} {name} F {codec} - - AC1 {attack} {key} -\n"
CHALLENGE = "{letter}_{speaker:04d} {name} F - {attack} {key}\n"


def write_asvspoof5(root: Path, line: str = RELEASED, clips: int = 16) -> Path:
    """Write tones as ASVspoof 5 was released: high ones are bona fide; in eval every other clip has a codec."""
    for letter, (folder, protocol) in PARTS.items():
        (root / folder).mkdir(parents=True)
        lines = []
        for index in range(clips):
            name, spoof = f"{letter}_{index:010d}", index % 2
            tone = 0.3 * np.sin((0.2 if spoof else 0.7) * np.arange(2000 + 100 * index))
            wave = tone + noise(len(tone), 1000 * ord(letter) + index)
            soundfile.write(root / folder / f"{name}.flac", wave, SAMPLE_RATE_HZ)
            lines.append(
                line.format(
                    letter=letter,
                    speaker=index // 4,
                    name=name,
                    codec="C05" if letter == "E" and index % 4 > 1 else "-",
                    attack=f"A{1 + index % 4:02d}" if spoof else "-",
                    key="spoof" if spoof else "bonafide",
                )
            )
        (root / protocol).write_text("".join(lines))
    return root


@pytest.fixture(scope="module")
def wavlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wavlm(tmp_path_factory.mktemp("wavlm"))


def describe(folder: Path, wavlm: Path, **changes: object) -> Config:
    manifests = folder / "manifests"
    recipe = settings(
        MINUTE,
        {
            "corpus": {"name": "asvspoof5", "root": str(folder / "corpus")},
            "data.train": str(manifests / "train.tsv"),
            "data.dev": str(manifests / "dev.tsv"),
            "data.eval": {"eval": str(manifests / "eval.tsv")},
            "backbone.source": str(wavlm),
            "seed": 1,  # with which so short a training tells the classes apart
        },
    )
    return configure(recipe, **changes)


def stages_done(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return re.findall(r"^(.+): working$", capsys.readouterr().out, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, wavlm: Path) -> Path:
    """A finished job."""
    folder = tmp_path_factory.mktemp("job")
    write_asvspoof5(folder / "corpus")
    run_recipe(describe(folder, wavlm), folder / "out")
    return folder


def test_from_raw_corpus_to_table_and_report(done: Path):
    out = done / "out"
    for name in ("dev", "eval"):
        table = json.loads((out / "evaluation" / f"{name}.json").read_text())
        assert 0 <= table["eer"] <= 1
        assert len(table["intervals"]["eer"]) == 2
        assert [row["attack"] for row in table["by"]["attack"]]
    assert {row["codec"] for row in table["by"]["codec"]} == {"-", "C05"}
    header, *rows = (out / "run" / "evaluation" / "eval.tsv").read_text().splitlines()
    assert header.split("\t")[:3] == ["filename", "cm-score", "cm-label"]
    assert len(rows) == 16
    assert "<html" in (out / "report.html").read_text()[:200]
    model = SpeechModel.from_pretrained(out / "model")
    assert model.calibration is not None
    assert SpeechModel.from_pretrained(out / "exported").calibration is None


def test_only_the_recipe_that_a_run_goes_on_with_names_places(done: Path):
    places = (str(done.parent).encode(), os.path.expanduser("~").encode())  # noqa: PTH111
    files = {path.relative_to(done / "out").as_posix(): path.read_bytes() for path in files_below(done / "out")}
    assert {name for name, content in files.items() if any(place in content for place in places)} == {"run/config.yaml"}
    recipe = json.loads(files["model/config.json"])["provenance"]["recipe"]
    assert recipe["data"]["train"] == "train.tsv"
    assert "wavlm" in recipe["backbone"]["source"]
    assert [result.name for result in find_results(done / "out", {"recipe": recipe})] == ["dev", "eval"]


def test_calibration_was_fitted_on_what_the_model_scored(done: Path):
    def scores(name: str) -> dict[str, float]:
        rows = [line.split("\t") for line in (done / "out" / "scores" / name).read_text().splitlines()[1:]]
        return {utt_id: float(score) for utt_id, score in rows}

    model = SpeechModel.from_pretrained(done / "out" / "model")
    assert model.calibration is not None
    raw, calibrated = scores("dev.uncalibrated.tsv"), scores("dev.tsv")
    for utt_id, score in raw.items():
        expected = model.calibration.scale * score + model.calibration.offset
        assert calibrated[utt_id] == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_a_second_call_does_nothing(done: Path, wavlm: Path, capsys: pytest.CaptureFixture[str]):
    run_recipe(describe(done, wavlm), done / "out")
    assert stages_done(capsys) == []


def test_what_was_lost_is_made_again_and_what_follows_from_it(
    done: Path, wavlm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    shutil.copytree(done, tmp_path, dirs_exist_ok=True)
    (tmp_path / "out" / "scores" / "eval.tsv").unlink()
    config = describe(done, wavlm)
    run_recipe(config, tmp_path / "out")
    assert stages_done(capsys) == ["score eval"]


def test_the_protocol_of_the_challenge_phase_will_do(tmp_path: Path, wavlm: Path):
    write_asvspoof5(tmp_path / "corpus", CHALLENGE)
    report = run_recipe(describe(tmp_path, wavlm, training__epochs=1), tmp_path / "out")
    assert report.exists()


def test_a_finished_training_is_never_done_over(done: Path, wavlm: Path):
    before = (done / "out" / "run" / "log.jsonl").read_bytes()
    with pytest.raises(InputError, match="was trained with another recipe or other manifests; give another --out"):
        run_recipe(describe(done, wavlm, seed=7), done / "out")
    assert (done / "out" / "run" / "log.jsonl").read_bytes() == before


def test_a_job_goes_on_where_it_was_cut_off(tmp_path: Path, wavlm: Path, monkeypatch: pytest.MonkeyPatch):
    write_asvspoof5(tmp_path / "corpus")
    config = describe(tmp_path, wavlm, training__epochs=1)

    def fail(*arguments: object, **options: object) -> None:
        raise InputError("no room")

    monkeypatch.setattr(job, "build_export", fail)
    with pytest.raises(InputError, match="no room"):
        run_recipe(config, tmp_path / "out")
    monkeypatch.undo()
    monkeypatch.setattr(job, "train", fail)  # is not called again
    assert run_recipe(config, tmp_path / "out").exists()


def test_a_set_that_the_corpus_does_not_have(tmp_path: Path, wavlm: Path):
    write_asvspoof5(tmp_path / "corpus")
    config = describe(tmp_path, wavlm, data__eval={"wild": str(tmp_path / "manifests" / "wild.tsv")})
    with pytest.raises(InputError, match=r"wild\.tsv: preparing asvspoof5 does not write it; it wrote .*eval\.tsv"):
        run_recipe(config, tmp_path / "out")
    assert not (tmp_path / "out" / "run").exists()


@pytest.mark.parametrize("scores", ["inverted", "all the same"])
def test_a_model_that_cannot_be_calibrated_is_scored_and_marked(
    done: Path, wavlm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], scores: str
):
    """The dev scores are turned around behind the job's back: `run` goes on, and says it in both places."""
    shutil.copytree(done, tmp_path, dirs_exist_ok=True)
    config, out = describe(done, wavlm), tmp_path / "out"
    table = out / "scores" / "dev.uncalibrated.tsv"
    header, *rows = table.read_text().splitlines()
    labels = {line.split()[1]: line.split()[8] for line in (done / "corpus" / PARTS["D"][1]).read_text().splitlines()}
    names = [row.split("\t")[0] for row in rows]
    values = [(labels[name] == "spoof") * (scores == "inverted") + 0.1 for name in names]
    table.write_text("\n".join([header, *(f"{name}\t{value}" for name, value in zip(names, values, strict=True))]))
    for record in (out / "stages").iterdir():
        if record.stem not in ("prepare", "train", "export", "score-dev,-uncalibrated"):
            record.unlink()
    run_recipe(config, out)
    why = "lower scores speak for bonafide" if scores == "inverted" else "all scores of system 1 are 0.1"
    assert f"warning: the model is left uncalibrated: {why}" in capsys.readouterr().err.replace(f"{table}: ", "")
    assert SpeechModel.from_pretrained(out / "model").calibration is None
    assert "not calibrated" in (out / "report.html").read_text()
    swept = read_swept(out, 0.3, ["dev", "eval"])
    assert r"| dev | out \* |" in write_markdown([swept])
    assert r"\*: not calibrated" in write_markdown([swept])


def test_a_family_is_exported_scored_and_reported(
    done: Path, wavlm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    config = describe(done, wavlm, pruning__export_at=(0.2, 0.4), pruning__export_hold_epochs=0.5)
    out = tmp_path / "out"
    run_recipe(config, out)
    member = SpeechModel.from_pretrained(out / "family" / "hp20")
    assert member.provenance["snapshot_at"] == 0.2
    page = (out / "report.html").read_text()
    assert '<th scope="row">hp20</th>' in page
    assert '<th scope="row">hp40</th>' in page
    assert [path.name for path in sorted((out / "run" / "evaluation" / "hp20").iterdir())] == ["dev.tsv", "eval.tsv"]
    capsys.readouterr()
    run_recipe(config, out)
    assert stages_done(capsys) == []
