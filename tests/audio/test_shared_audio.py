"""The audio cases that users reported, as they lie beside the repository, through `detect`, `prepare` and `audit`."""

import json
import runpy
import shutil
from pathlib import Path

import pytest

from corpus import tiny_detector
from world import Cli

CASES = Path(__file__).parents[3] / "shared" / "cases"
SECONDS = {
    "joined_mp3/speech.mp3": 3.17,
    "chained_ogg/speech.ogg": 1.99,
    "mp3_with_id3_tag/clip.mp3": 5.064,
    "opus_without_eos/voice.ogg": 2.0,
    "m4a_in_a_folder/talks/two.m4a": 1.0,
}


@pytest.mark.skipif(not CASES.is_dir(), reason="../shared/cases is not there")
def test_cases_give_the_expected_results(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in {name.split("/")[0] for name in SECONDS} | {"stereo_cancels", "appledouble"}:
        shutil.copytree(CASES / name, tmp_path / name, copy_function=shutil.copyfile)
        (tmp_path / name).chmod(0o755)
    for made in ("stereo_cancels", "appledouble"):
        runpy.run_path(str(tmp_path / made / "make.py"))
    tiny_detector(tmp_path / "wavlm").save_pretrained(tmp_path / "model")
    options = ("--model", "model", "--json", "--workers", "0")
    found = cli("detect", *SECONDS, *options)
    assert found.code == 0, found.err
    judged = {record["path"]: record["seconds"] for record in map(json.loads, found.out.splitlines())}
    assert judged == pytest.approx(SECONDS, abs=0.03)
    rows = "".join(f"{index}\t{name}\tbonafide\n" for index, name in enumerate(SECONDS))
    (tmp_path / "m.tsv").write_text(f"utt_id\tpath\tlabel\n{rows}")
    assert cli("audit", "m.tsv", "--workers", "0").code == 0
    found = cli("detect", "m4a_in_a_folder/talks", *options)
    assert (found.code, len(found.out.splitlines()), len(found.err.splitlines())) == (2, 2, 4)
    found = cli("detect", *(f"stereo_cancels/{name}.wav" for name in ("mono", "inverted", "silence")), *options)
    mono, inverted, silence = map(json.loads, found.out.splitlines())
    assert inverted["llr"] == pytest.approx(mono["llr"], abs=1e-4)
    assert [mono["silent"], inverted["silent"], silence["silent"]] == [False, False, True]
    found = cli("detect", "appledouble/set", *options)
    assert (found.code, len(found.out.splitlines())) == (0, 2)
    assert "left out 1 hidden files" in found.err
    found = cli("prepare", "folder", "--root", "appledouble/set", "--out", "manifests")
    assert found.code == 0
    assert "(1 bona fide, 1 spoofed)" in found.out
