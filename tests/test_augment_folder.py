"""A folder of recordings is the same list on every machine, and is read piece by piece."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from corpus import SAMPLE_RATE_HZ, noise
from hybrid_pruning.data.augment import recordings as folders
from hybrid_pruning.data.augment.recordings import list_folder
from hybrid_pruning.errors import InputError
from sounds import rng, write_sounds

NAMES = ("b/2.wav", "b/10.WAV", "a.flac", "Z.ogg", "b.wav")


def write(root: Path, names: tuple[str, ...]) -> Path:
    for index, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(root / name, noise(400 + index), SAMPLE_RATE_HZ)
    return root


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
    with pytest.raises(
        InputError, match=rf"^augment.music.folder: .*{name} (is not a folder|holds no recording)"
    ) as found:
        list_folder(tmp_path / name, "augment.music.folder")
    assert "\n" not in str(found.value)


def test_a_piece_is_a_piece_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = np.arange(5000, dtype=np.float32) / 5000
    listed = list_folder(write_sounds(tmp_path, [whole]), "key")
    asked = []
    read = folders.read_audio
    monkeypatch.setattr(folders, "read_audio", lambda *given: asked.append(given) or read(*given))
    source = rng()
    starts = []
    for _ in range(50):
        piece = listed.piece(0, 1000, source)
        starts.append(round(piece[0] * 5000))
        assert np.array_equal(piece, whole[starts[-1] :][:1000])
    assert min(starts) < 400
    assert max(starts) > 3600
    assert {samples for _, _, samples in asked} == {1000}, "no more is read than is needed"


def test_what_is_too_short_is_repeated(tmp_path: Path):
    short = noise(300)
    piece = list_folder(write_sounds(tmp_path, [short]), "key").piece(0, 1000, rng())
    assert np.array_equal(piece, np.tile(short, 4)[:1000])
