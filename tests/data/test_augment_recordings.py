"""Recordings to augment with: the same list on every machine, and noise by its power, its voices and the generator."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from corpus import SAMPLE_RATE_HZ, noise, touch
from hybrid_pruning.data.augment import effects as recordings
from hybrid_pruning.data.augment.effects import AudioFolder, Noise, list_folder
from hybrid_pruning.errors import InputError
from sounds import Wave, level_db, power_db, rng, snr_db, tone, vowel, write_sounds

NAMES = ("b/2.wav", "b/10.WAV", "a.flac", "Z.ogg", "b.wav")


def write(root: Path, names: tuple[str, ...]) -> Path:
    for index, name in enumerate(names):
        soundfile.write(touch(root, name) / name, noise(400 + index), SAMPLE_RATE_HZ)
    return root


def folder(path: Path, *waves: Wave, rate: int = SAMPLE_RATE_HZ) -> AudioFolder:
    return list_folder(write_sounds(path, list(waves), rate), "key")


def test_the_order_is_that_of_the_names(tmp_path: Path):
    first, second = write(tmp_path / "1", NAMES), write(tmp_path / "2", NAMES[::-1])
    listed = list_folder(first, "key")
    assert listed.names == ("Z.ogg", "a.flac", "b.wav", "b/10.WAV", "b/2.wav") == list_folder(second, "key").names
    assert [len(listed), listed.path(1)] == [5, first / "a.flac"]
    assert listed.samples.tolist()[1:] == [402, 404, 401, 400]
    assert listed.samples[0] in {403, 512}, "FFmpeg gives out a Vorbis block that ends within a file whole"


def test_what_is_no_audio_is_left_out_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write(tmp_path, NAMES)
    (tmp_path / "README").write_text("not a recording")
    list_folder(tmp_path, "augment.noise.folder")
    assert capsys.readouterr().out == ""
    (tmp_path / "broken.wav").write_text("no audio")
    soundfile.write(tmp_path / "empty.wav", noise(0), SAMPLE_RATE_HZ)
    assert len(list_folder(tmp_path, "augment.noise.folder")) == 5
    said = " ".join(capsys.readouterr().out.split())
    assert said == "augment.noise.folder: 2 of 7 files left out, no audio, e.g. broken.wav"


@pytest.mark.parametrize("name", ["missing", "file.wav", "empty"])
def test_a_folder_without_recordings_is_one_line(tmp_path: Path, name: str):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "broken.wav").write_text("no audio")
    (tmp_path / "file.wav").touch()
    expected = rf"^augment.music.folder: .*{name} (is not a folder|holds no recording)[^\n]*$"
    with pytest.raises(InputError, match=expected):
        list_folder(tmp_path / name, "augment.music.folder")


def test_a_piece_is_a_piece_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = np.arange(5000, dtype=np.float32) / 5000
    listed, asked, source, read = folder(tmp_path, whole), [], rng(), recordings.read_audio
    monkeypatch.setattr(recordings, "read_audio", lambda *given: asked.append(given) or read(*given))
    pieces = [listed.piece(0, 1000, source) for _ in range(50)]
    starts = [round(piece[0] * 5000) for piece in pieces]
    assert all(np.array_equal(piece, whole[start:][:1000]) for piece, start in zip(pieces, starts, strict=True))
    assert min(starts) < 400
    assert max(starts) > 3600
    assert {samples for _, _, samples in asked} == {1000}, "no more is read than is needed"
    short = noise(300)
    assert np.array_equal(folder(tmp_path / "short", short).piece(0, 1000, rng()), np.tile(short, 4)[:1000])


@pytest.mark.parametrize("rate", [16_000, 8_000, 44_100])
@pytest.mark.parametrize(("samples", "asked"), [(500, -5.0), (16_000, 12.5), (40_000, 0.0), (40_000, 40.0)])
def test_the_ratio_is_the_one_asked_for(tmp_path: Path, rate: int, samples: int, asked: float):
    wave = vowel()
    noisy = Noise(folder(tmp_path, 0.01 * rng(1).standard_normal(samples), rate=rate), (asked, asked))(wave, rng())
    assert (noisy.dtype, len(noisy)) == (np.float32, len(wave))
    assert snr_db(wave, noisy) == pytest.approx(asked, abs=0.02)


def test_the_ratio_is_drawn_from_its_range(tmp_path: Path):
    added, wave, source = Noise(folder(tmp_path, vowel(seed=1), vowel(seed=2)), (5.0, 15.0)), vowel(), rng()
    found = [snr_db(wave, added(wave, source)) for _ in range(60)]
    assert 4.98 < min(found) < 6.5
    assert 13.5 < max(found) < 15.02


def test_every_voice_of_babble_has_a_ratio_of_its_own(tmp_path: Path):
    pitches = [300 * (index + 1) for index in range(10)]
    voices = folder(tmp_path, *(tone(pitch, 20_000, peak=0.01) for pitch in pitches))
    wave, source, counts = vowel(), rng(), set()
    for _ in range(25):
        added = Noise(voices, (13.0, 20.0), (3, 8))(wave, source) - wave
        # a tone at -x dB of the wave's power has a peak 3 dB above that
        levels = np.array([power_db(wave) + 3.01 - level_db(added, pitch) for pitch in pitches])
        heard = levels[levels < 40]
        counts.add(len(heard))
        assert (heard > 12.9).all(), "no recording twice"
        assert (heard < 20.1).all()
        assert np.ptp(heard) > 0.1
    assert counts == {3, 4, 5, 6, 7, 8}


def test_more_voices_than_recordings(tmp_path: Path):
    noisy = Noise(folder(tmp_path, vowel(seed=1), vowel(seed=2)), (10.0, 10.0), (5, 5))(vowel(), rng())
    assert 10 - 20 * np.log10(5) < snr_db(vowel(), noisy) < 10


def test_the_wave_given_keeps_its_level_and_silence_has_no_ratio(tmp_path: Path):
    wave = tone(500)
    noisy = Noise(folder(tmp_path, tone(3000)), (0.0, 0.0))(wave, rng())
    assert np.array_equal(wave, tone(500))
    assert level_db(noisy, 500) == pytest.approx(level_db(wave, 500), abs=0.01)
    silence = np.zeros(8000, dtype=np.float32)
    assert not Noise(folder(tmp_path / "noise", vowel()), (0.0, 15.0))(silence, rng()).any()
    assert np.array_equal(Noise(folder(tmp_path / "silent", silence), (0.0, 15.0))(vowel(), rng()), vowel())
