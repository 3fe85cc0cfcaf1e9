"""Audio without speech-like energy is scored with a warning: silence, an offset, dither; soft speech is speech."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from corpus import SAMPLE_RATE_HZ, tiny_detector
from hybrid_pruning.audio import may_hold_speech, read_audio
from hybrid_pruning.data.checks import audit_utterances
from hybrid_pruning.data.manifest import read_manifest
from sounds import Wave, rng, vowel
from world import Cli

SECOND = SAMPLE_RATE_HZ


def soft(dbfs: float) -> Wave:
    """Half a second of speech at a level, in silence."""
    speech = vowel(SECOND // 2)
    return np.concatenate([np.zeros(SECOND, np.float32), speech * np.float32(10 ** (dbfs / 20) / speech.std())])


DITHER = (10 ** (-90 / 20) * rng().standard_normal(SECOND)).astype(np.float32)
SILENT = {
    "silence": np.zeros(SECOND, np.float32),
    "an offset": np.full(SECOND, 0.4, np.float32),
    "dither": DITHER,
    "dither on an offset": DITHER + np.float32(0.1),
    "a least bit": (rng().integers(0, 2, SECOND) / 32768).astype(np.float32),
    "a click": np.where(np.arange(SECOND) // 40 == 125, np.float32(0.5), np.float32(0)),
    "ten samples": np.zeros(10, np.float32),
}
AUDIBLE = {
    "speech": vowel(),
    "soft speech": soft(-60),
    "soft speech on an offset": soft(-60) + np.float32(0.2),
    "ten milliseconds": vowel()[8000:8160],
}


@pytest.mark.parametrize("name", [*SILENT, *AUDIBLE])
def test_waves_that_may_hold_speech(tmp_path: Path, name: str):
    soundfile.write(tmp_path / "a.wav", {**SILENT, **AUDIBLE}[name], SAMPLE_RATE_HZ)  # in 16 bits
    assert may_hold_speech(read_audio(tmp_path / "a.wav")) is (name in AUDIBLE)


def test_three_verbs_warn_of_silence(cli: Cli, tmp_path: Path):
    tiny_detector(tmp_path / "wavlm").save_pretrained(tmp_path / "model")
    waves = {"inverted": np.stack([vowel(), -vowel()], 1), "offset": SILENT["an offset"], "silence": SILENT["silence"]}
    rows = ["utt_id\tpath\tlabel"]
    for name, wave in waves.items():
        soundfile.write(tmp_path / f"{name}.wav", wave, SAMPLE_RATE_HZ)
        rows.append(f"{name}\t{name}.wav\tbonafide")
    soundfile.write(tmp_path / "mono.wav", vowel(), SAMPLE_RATE_HZ)
    (tmp_path / "m.tsv").write_text("\n".join(rows) + "\n")
    paths = [*(f"{name}.wav" for name in waves), "mono.wav"]
    found = cli("detect", *paths, "--model", "model", "--json", "--workers", "0", "--window-seconds", "1")
    records = [json.loads(line) for line in found.out.splitlines()]
    assert [record["silent"] for record in records] == [False, True, True, False]
    assert records[0]["llr"] == pytest.approx(records[3]["llr"], abs=1e-4), "as mono"
    assert [line.split(":")[2].strip() for line in found.err.splitlines()] == ["offset.wav", "silence.wav"]
    silent = "offset.wav: holds no speech-like energy, nothing above -70 dBFS;"
    assert f"warning: {silent} its score says nothing" in found.err
    found = cli("score", "model", "m.tsv", "--out", "scores.tsv", "--workers", "0")
    assert found.code == 0
    assert f"{silent} 2 of 3 files are like this" in found.err
    found = cli("audit", "m.tsv", "--workers", "0")
    assert (found.code, found.out) == (0, "m.tsv: every file is sound\n")
    assert f"{silent} 2 files of m.tsv are like this" in found.err
    assert [fault.harmless for fault in audit_utterances(read_manifest(tmp_path / "m.tsv"), 0)] == [True, True]
