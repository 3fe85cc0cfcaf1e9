"""The quickstart: from folder to table in small; its corpus, attacks, cache, and packages that lead out of a folder."""

import io
import json
import shutil
import tarfile
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from corpus import write_whisper
from hybrid_pruning import InputError, SpeechModel, detect, extras, load_backbone, quickstart, report
from hybrid_pruning.benchmarks.comparison import latency_ratio
from hybrid_pruning.data.manifest import read_manifest
from hybrid_pruning.files import remove_links_out_of
from hybrid_pruning.jobs import packages as recordings_module
from hybrid_pruning.jobs import quickstart as quickstart_module
from hybrid_pruning.jobs import synthetic_corpus as corpus_module
from hybrid_pruning.jobs.copysynthesis import ATTACKS, reencode
from hybrid_pruning.jobs.packages import LONGEST, SAMPLE_RATE, from_debian, from_folder, read, unpack, usable
from hybrid_pruning.jobs.synthetic_corpus import SEEN, UNSEEN, build, cut, join, trim
from hybrid_pruning.models.size import count_kept
from hybrid_pruning.tasks import Label
from hybrid_pruning.training.runs import Run
from logged_runs import draw_nothing
from sounds import SECOND, vowel, write_sounds

SHORT = ("data.workers=0", "data.crop_seconds=0.5", "training.batch_size=4", "head.heads=2", "head.embedding=8")
STAGES = ("dense", "joint", "heal")


@pytest.fixture(scope="module")
def voices(tmp_path_factory):
    """A folder of recordings of six voices; beside it their corpus is kept."""
    folder = tmp_path_factory.mktemp("voices") / "recordings"
    for voice in range(6):
        pitch_hz, seeds = 90 + 25 * voice, (2 * voice, 2 * voice + 1)
        write_sounds(folder / f"{voice}", [vowel(SECOND, pitch_hz, seed) for seed in seeds])
    return folder


@pytest.fixture
def quick(voices, monkeypatch):
    """The quickstart's slow parts shortened."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(voices.parent / "cache"))
    monkeypatch.setattr("hybrid_pruning.jobs.quickstart.report", partial(report, rounds=50))
    monkeypatch.setattr("hybrid_pruning.jobs.quickstart.latency_ratio", partial(latency_ratio, repeats=2))
    draw_nothing(monkeypatch)


@pytest.mark.usefixtures("quick")
def test_quickstart_runs_to_its_table_and_verdicts(tmp_path, voices, capsys):
    out, mine, encoder = tmp_path / "out", voices / "0", write_whisper(tmp_path / "encoder")
    epochs = [f"stages.{stage}.training.epochs=1" for stage in STAGES]
    figures = quickstart(out, voices, str(encoder), (*SHORT, *epochs), files=[mine])

    assert json.loads((out / "quickstart.json").read_text()) == figures
    removed = {"dense": 0, "hp50": 0.5, "hp70": 0.7}
    for name, sparsity in removed.items():
        system, model = figures[name], SpeechModel.from_pretrained(out / "models" / name)
        assert system["params"] / figures["dense"]["params"] == pytest.approx(1 - sparsity, abs=0.005)
        assert sum(parameter.numel() for parameter in model.backbone.parameters()) == system["params"]
        assert all(0 <= system[attacks]["eer"] <= 1 for attacks in ("seen attacks", "unseen attack"))
        assert [stage.trained_epochs() for stage in Run(out / name).stages()] == [1, 1, 1]
    first = [Run(out / name / "dense").checkpoint("epoch", 1).read_bytes() for name in removed]
    assert first[0] == first[1] == first[2]  # trained once
    assert figures["hp70"]["macs"] < figures["hp50"]["macs"] < figures["dense"]["macs"]
    found = [one.record(0.0, True) for one in detect(out / "models" / "hp70", sorted(mine.iterdir()))]
    assert [one["llr"] for one in figures["verdicts"]] == [one["llr"] for one in found]
    page = (out / "report.html").read_text()
    assert all(title in page for title in ("eval_seen", "eval_unseen", "points from dense"))
    printed = capsys.readouterr().out
    assert str(mine / "00.wav") in printed
    assert f"detect FILE --model {out / 'models' / 'hp70'}" in printed
    for words in ("50% removed", "70% removed", "MACs", "EER %, seen attacks", "EER %, unseen attack", "LLR"):
        assert words in printed


@pytest.mark.usefixtures("quick")
def test_from_scratch_and_verdicts_on_held_out_clips(tmp_path, voices, monkeypatch):
    monkeypatch.setattr(quickstart_module, "SYSTEMS", {"dense": 0.0, "hp70": 0.7})
    options = ("training.epochs=1", "pruning.sparsity_warmup_epochs=0.5")
    figures = quickstart(tmp_path / "out", voices, overrides=(*SHORT, *options), from_scratch=True)
    assert figures["dense"]["params"] == 816_976
    assert figures["hp70"]["params"] / 816_976 == pytest.approx(0.3, abs=0.005)
    assert [Path(one["path"]).stem.rpartition("-")[2] for one in figures["verdicts"]] == ["bonafide", "world"]


def test_wrong_files_and_options_are_reported_before_anything_is_made(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"no sound")
    with pytest.raises(InputError, match=r"a\.wav: cannot be decoded"):
        quickstart(tmp_path / "out", files=[tmp_path / "a.wav"])
    with pytest.raises(InputError, match="--backbone and --from-scratch"):
        quickstart(tmp_path / "out", backbone="x", from_scratch=True)
    assert not (tmp_path / "out").exists()


def test_the_encoder_that_comes_along_is_whispers_in_float32():
    folder = Path(quickstart_module.__file__).parent / quickstart_module.ENCODER
    backbone = load_backbone(folder)
    assert {parameter.dtype for parameter in backbone.parameters()} == {torch.float32}
    assert count_kept(backbone).budget.params == 8_208_384
    weights = load_file(folder / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float16}
    for name, weight in backbone.encoder.state_dict().items():
        torch.testing.assert_close(weight, weights[f"encoder.{name}"].float(), rtol=0, atol=0)
    assert "Copyright (c) 2022 OpenAI" in (folder / "LICENSE").read_text()


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="holds something other than a quickstart"):
        quickstart(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


FILE, LINK, HARD_LINK = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
CONTROL = b"Package: x\nVersion: 1\nArchitecture: all\nMaintainer: x <x@x>\nDescription: x\n"
needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not installed")


def pack(*entries):
    """Return a tar of (name, type, content or target of the link)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=tarfile.GNU_FORMAT) as archive:
        for name, kind, value in entries:
            member = tarfile.TarInfo(name)
            member.type = kind
            if kind == FILE:
                member.size = len(value)
            else:
                member.linkname = value
            archive.addfile(member, io.BytesIO(value.encode()))
    return buffer.getvalue()


def write_package(path, *entries):
    members = {"debian-binary": b"2.0\n", "control.tar.gz": pack(("./control", FILE, CONTROL.decode()))}
    members["data.tar.gz"] = pack(*entries)
    with path.open("wb") as file:
        file.write(b"!<arch>\n")
        for name, data in members.items():
            file.write(f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode())
            file.write(data + b"\n" * (len(data) % 2))


@pytest.fixture
def staging(tmp_path):
    """A folder for a package, with one beside it that nothing may be written to."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "staging").mkdir()
    return tmp_path / "staging"


@needs_dpkg
@pytest.mark.parametrize(
    "entries",
    [
        (("../../outside/x", FILE, "x"),),
        (("./a", LINK, "../../../outside"), ("./a/x", FILE, "x")),
        (("./a", HARD_LINK, "/etc/hostname"),),
    ],
    ids=["a name that climbs", "a file through a link", "a hard link to the system"],
)
def test_packages_that_would_leave_the_folder_are_refused(staging, entries):
    write_package(staging / "x.deb", ("./ok.ogg", FILE, "sound"), *entries)
    with pytest.raises(InputError, match="dpkg-deb failed"):
        unpack(staging, staging.parent / "target")
    assert not (staging.parent / "target").exists()
    assert not list((staging.parent / "outside").iterdir())


@needs_dpkg
def test_absolute_names_and_links_stay_within(staging):
    absolute, sound = (f"{staging.parent}/outside/x", FILE, "x"), ("./a/b.ogg", FILE, "sound")
    write_package(staging / "x.deb", absolute, sound, ("./c.ogg", LINK, "a/b.ogg"), ("./d.ogg", LINK, "/etc/hostname"))
    unpack(staging, staging.parent / "target")
    assert not list((staging.parent / "outside").iterdir())
    assert {path.name: path.read_text() for path in (staging.parent / "target").glob("*.ogg")} == {"c.ogg": "sound"}


def test_only_links_that_stay_within_are_kept(tmp_path):
    folder = tmp_path / "folder"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "file").write_text("here")
    (tmp_path / "secret").write_text("there")
    links = {
        "good": "a/file",
        "good folder": "a",
        "a/good climb": "../a/file",
        "out": "../secret",
        "a/out": "../../secret",
        "absolute": str(tmp_path / "secret"),
        "through": "out",
        "nowhere": "missing",
        "circle": "circle",
    }
    for name, target in links.items():
        (folder / name).symlink_to(target)
    remove_links_out_of(folder)
    kept = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink()}
    assert kept == {"good", "good folder", "a/good climb"}
    assert (tmp_path / "secret").read_text() == "there"


SPANISH = "asterisk-core-sounds-es-g722"


def speech_like(seconds, seed, rate=SAMPLE_RATE):
    source = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    phase = 2 * np.pi * np.cumsum(120 + 10 * seed + 20 * np.sin(2 * np.pi * time)) / rate
    voiced = sum(np.sin(k * phase) / k for k in range(1, 12)) * (np.sin(2 * np.pi * 2 * time) ** 2)
    return (0.1 * voiced + 0.002 * source.standard_normal(len(time))).astype(np.float32)


def write(path, wave, rate=SAMPLE_RATE):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, rate)
    return path


def write_six(folder):
    for index in range(6):
        write(folder / f"{index}.wav", speech_like(1.5, index))
    return folder


@pytest.fixture
def bonafide(tmp_path):
    return write_six(tmp_path / "bonafide")


@pytest.fixture(scope="module")
def made_once(tmp_path_factory):
    """A corpus of six recordings, and the folder that holds them and its cache."""
    folder = tmp_path_factory.mktemp("made")
    return build(folder / "cache", write_six(folder / "bonafide"), workers=1), folder


@pytest.fixture
def made(made_once):
    return made_once[0]


def rows(corpus):
    return {name: read_manifest(manifest) for name, manifest in corpus.manifests.items()}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_an_attack_keeps_length_and_spectral_envelope_and_changes_the_wave(attack):
    for samples in (8_000, 24_321):
        wave = speech_like(2, 1)[:samples]
        before = wave.copy()
        fake = attack(wave)
        assert (fake.dtype, fake.shape) == (np.float32, wave.shape)
        assert np.isfinite(fake).all()
        assert np.abs(fake - wave).max() > 0.01
        np.testing.assert_array_equal(wave, before)
        np.testing.assert_array_equal(attack(wave), fake)
    wave = speech_like(2, 3)
    power = [np.abs(np.fft.rfft(one[:32_000])) ** 2 for one in (attack(wave), wave)]
    fake, real = (10 * np.log10(one[:8_000].reshape(16, 500).sum(axis=1) + 1e-3) for one in power)
    assert np.abs(fake - real)[:4].max() < 6  # dB, in the four bands of 250 Hz that hold most of the energy
    assert np.isfinite(attack(np.zeros(16_000, dtype=np.float32))).all()


def test_reencoding_levels_band_loudness_and_silence():
    loud, soft = speech_like(2, 1), 0.01 * speech_like(2, 2) + 0.1
    soft[:8_000] = 0.1
    for seed, wave in enumerate((loud, soft)):
        samples = reencode(wave, seed).astype(float) / 32767
        assert abs(20 * np.log10(samples.std()) + 26) < 0.2
        assert abs(samples.mean()) < 1e-4
        assert np.mean(samples == 0) < 0.05
        power = np.abs(np.fft.rfft(samples)) ** 2 / len(samples)
        above = power[np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE) > 7_000]
        assert abs(10 * np.log10(above.mean()) + 62) < 0.5


def test_both_classes_are_written_alike(made):
    seen = set()
    for utterance in chain(*rows(made).values()):
        info = soundfile.info(utterance.path)
        wave, _ = soundfile.read(utterance.path)
        seen.add((info.format, info.subtype, info.samplerate, info.channels, round(20 * np.log10(wave.std()), 1)))
        assert utterance.seconds == pytest.approx(info.duration, abs=1e-3)
    assert seen == {("FLAC", "PCM_16", SAMPLE_RATE, 1, -26.0)}


def test_splits_hold_the_right_attacks_and_other_speakers(made):
    tables = rows(made)
    train, dev, seen, unseen = ({row.speaker for row in table} for table in tables.values())
    assert seen == unseen
    assert len(train | dev | seen) == len(train) + len(dev) + len(seen) == 6
    human = {name: [row.path for row in table if row.label is Label.BONAFIDE] for name, table in tables.items()}
    assert human["eval_seen"] == human["eval_unseen"]
    for name, table in tables.items():
        attacks = {row.attack for row in table if row.label is Label.SPOOF}
        assert attacks <= ({UNSEEN} if name == "eval_unseen" else set(SEEN))
        assert made.counts[name] == {"bonafide": len(human[name]), "spoof": len(table) - len(human[name])}
        assert made.counts[name]["bonafide"] == made.counts[name]["spoof"] > 0
        assert all((row.attack == "-") is (row.label is Label.BONAFIDE) and row.source == "bonafide" for row in table)


def test_a_second_build_makes_nothing(tmp_path, made_once, monkeypatch):
    def fail(*_):
        raise AssertionError("made again")

    monkeypatch.setattr(corpus_module, "_make", fail)
    monkeypatch.setattr(corpus_module, "read", fail)
    made, folder = made_once
    cache, bonafide = folder / "cache", folder / "bonafide"
    assert build(cache, bonafide) == made
    with pytest.raises(AssertionError, match="made again"):
        build(cache, bonafide, seed=1)
    shutil.copy2(bonafide / "0.wav", tmp_path)
    write(bonafide / "0.wav", speech_like(2, 9))
    with pytest.raises(AssertionError, match="made again"):
        build(cache, bonafide)
    shutil.copy2(tmp_path / "0.wav", bonafide)


def test_a_killed_build_is_taken_up_and_ends_the_same(tmp_path, bonafide, made, monkeypatch):
    calls = []

    def dying(wave, seed):
        calls.append(seed)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return reencode(wave, seed)

    monkeypatch.setattr(corpus_module, "reencode", dying)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "cache", bonafide, workers=1)
    assert not list((tmp_path / "cache").glob("*/corpus.json"))
    first = len(calls)
    resumed = build(tmp_path / "cache", bonafide, workers=1)
    total = sum(made.counts[name][label] for name in ("train", "dev", "eval_seen") for label in Label)
    assert len(calls) - first == total + made.counts["eval_unseen"]["spoof"] - 4
    for name, table in rows(made).items():
        for row, again in zip(table, rows(resumed)[name], strict=True):
            assert row.path.read_bytes() == again.path.read_bytes()


def test_of_hours_a_part_is_read(tmp_path):
    """20 GB of a Wave64 that takes no room on the disk, and a FLAC that promises 2^36 samples."""
    long = write(tmp_path / "long.w64", speech_like(2, 0))
    data = bytearray(long.read_bytes())
    place = data.index(b"data\xf3\xac") + 16
    data[place : place + 8] = (20 << 30).to_bytes(8, "little")
    data[16:24] = ((20 << 30) + place - 16).to_bytes(8, "little")
    long.write_bytes(data)
    with long.open("r+b") as file:
        file.truncate((20 << 30) + place - 16)
    recordings = usable(from_folder(tmp_path))
    assert [recording.path for recording in recordings] == [long]
    assert len(read(long)) == LONGEST
    long.unlink()
    flac = bytearray(write(tmp_path / "a.flac", speech_like(2, 0)).read_bytes())
    flac[21], flac[22:26] = flac[21] | 0x0F, b"\xff" * 4
    (tmp_path / "a.flac").write_bytes(flac)
    with pytest.raises(InputError, match=r"a.flac: (is cut short|cannot be decoded)"):
        read(tmp_path / "a.flac")


def test_corrupt_files_are_skipped_the_first_with_their_names(tmp_path, bonafide, capsys):
    for number in range(4):
        (bonafide / f"broken{number}.wav").write_bytes(f"RIFF no sound at all, {number}".encode())
    bad = speech_like(2, 0)
    bad[5] = np.nan
    soundfile.write(bonafide / "5nan.wav", bad, SAMPLE_RATE, subtype="FLOAT")
    corpus = build(tmp_path / "cache", bonafide, workers=1)
    output = "".join(capsys.readouterr().out.split())
    assert "5nan.wav:holdsvalues" in output
    assert "broken1.wav:cannotbedecoded" in output
    assert "broken2.wav" not in output
    assert "skipped2morethatcannotbereadwholeorarebelow16kHz" in output
    assert sum(corpus.counts[name]["bonafide"] for name in ("train", "dev", "eval_seen")) == 6


def test_duplicates_and_empty_files_are_left_out_and_low_rates_refused(bonafide, capsys):
    shutil.copy(bonafide / "0.wav", bonafide / "again.wav")
    (bonafide / "nothing.wav").touch()
    assert [item.path.name for item in usable(from_folder(bonafide))] == [f"{index}.wav" for index in range(6)]
    assert "1 duplicates, 1 empty" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"telephone\.wav: is sampled at 8,000 Hz, less than 16,000"):
        read(write(bonafide / "telephone.wav", speech_like(2, 9, 8_000), 8_000))


@pytest.mark.parametrize(("count", "seconds"), [(2, 2.0), (3, 2.0), (6, 0.5)])
def test_too_few_clips_are_an_input_error(tmp_path, count, seconds):
    for index in range(count):
        write(tmp_path / "few" / f"{index}.wav", speech_like(seconds, index))
    with pytest.raises(InputError, match=r"found \d clips of human speech by \d speakers; .* give more recordings"):
        build(tmp_path / "cache", tmp_path / "few", workers=1)


def test_missing_folders_recordings_and_vocoders_are_input_errors(tmp_path, bonafide, monkeypatch):
    (tmp_path / "empty").mkdir()
    for name, message in {"nowhere": "is not a folder", "empty": "holds no recordings"}.items():
        with pytest.raises(InputError, match=message):
            build(tmp_path / "cache", tmp_path / name)
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r'pyworld is not installed; .*pip install "hybrid-pruning\[quickstart\]"'):
        build(tmp_path / "cache", bonafide)


@pytest.mark.parametrize(
    ("files", "speakers"),
    [
        (["a/1.wav", "b/1.wav", "c/1.wav"], ["a", "b", "c"]),
        (["x/y/a/1.wav", "x/y/b/1.wav", "x/y/c/2/1.wav"], ["a", "b", "c"]),
        (["p/a/1.wav", "p/b/1.wav", "q/c/1.wav"], ["p/a", "p/b", "q/c"]),
        (["one/1.wav", "one/2.wav", "one/3.wav"], ["1.wav", "2.wav", "3.wav"]),
        (["a/1.wav", "a/2.wav", "b/3.wav"], ["a/1.wav", "a/2.wav", "b/3.wav"]),
    ],
)
def test_speakers_are_those_of_the_folders(tmp_path, files, speakers):
    for name in files:
        write(tmp_path / name, np.zeros(10, dtype=np.float32))
    assert [item.speaker for item in from_folder(tmp_path)] == speakers


def test_without_apt_or_network_the_option_bonafide_is_named(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(recordings_module.shutil, "which", lambda _: None)
        with pytest.raises(InputError, match=r"apt-get is not on this machine.*--bonafide DIR"):
            build(tmp_path / "cache")
    tools = tmp_path / "bin"
    for tool in ("apt-get", "dpkg-deb"):
        write_tool(tools / tool, 'echo "W: first" >&2; echo "E: no route to host" >&2; exit 100')
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    with pytest.raises(InputError, match=r"E: no route to host; .*--bonafide DIR"):
        build(tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache" / "debian").iterdir() if path.name != "apt"]


def test_packages_are_fetched_once_and_unknown_ones_left_out(tmp_path, monkeypatch):
    tools, log = tmp_path / "bin", tmp_path / "log"
    refuse = 'case "$*" in *ktuberling*) echo "E: Unable to locate package ktuberling-data" >&2; exit 100;; esac'
    write_tool(tools / "apt-get", f'{refuse}; case "$*" in *download*) echo "$*" >> {log}; touch package.deb;; esac')
    write_tool(tools / "dpkg-deb", 'd="$3/usr/share/klettres/en_GB/alpha"; mkdir -p "$d"; echo > "$d/a.ogg"')
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    for _ in range(2):
        found = from_debian(tmp_path / "cache")
    [only] = found  # the others' paths name no speaker
    assert (only.speaker, only.group, only.source) == ("klettres-en_GB", "kde-en", "klettres-data")
    assert len(log.read_text().splitlines()) == len(recordings_module.PACKAGES) - 1
    assert all("Dir::State::lists=" in line and "Debug::NoLocking=1" in line for line in log.read_text().splitlines())


@pytest.mark.parametrize(
    ("package", "inside", "speaker", "group"),
    [
        (SPANISH, "sounds/es_MX_f_Allison/digits/1.g722", "asterisk-Allison", "asterisk-Allison"),
        (SPANISH, "sounds/es_MX_f_Allison/silence/1.g722", None, None),
        (SPANISH, "sounds/es_MX_f_Allison/beep.g722", None, None),
        ("fillets-ng-data-cs", "sound/bar/cs/bar-m-0.ogg", "fillets-cs-m", "fillets-cs-m"),
        ("fillets-ng-data-cs", "sound/bar/cs/v-0.ogg", "fillets-cs-v", "fillets-cs-v"),
        ("fillets-ng-data-cs", "sound/bar/cs/robot-0.ogg", None, None),
        ("klettres-data", "klettres/pt_BR/alpha/a.ogg", "klettres-pt_BR", "kde-pt"),
        ("ktuberling-data", "ktuberling/sounds/sr@latin/hat.ogg", "ktuberling-sr@latin", "kde-sr"),
        ("ktuberling-data", "ktuberling/pics/hat.ogg", None, None),
    ],
)
def test_speakers_are_those_of_the_packages(tmp_path, package, inside, speaker, group):
    for name in recordings_module.PACKAGES:
        (tmp_path / name).mkdir()
    path = tmp_path / package / "usr/share" / inside
    path.parent.mkdir(parents=True)
    path.touch()
    found = from_debian(tmp_path)
    assert [(item.speaker, item.group, item.source) for item in found] == (
        [(speaker, group, package)] if speaker else []
    )


def write_tool(path, script):
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_silence_is_trimmed_and_short_utterances_joined():
    quiet = np.zeros(SAMPLE_RATE, dtype=np.float32)
    utterance = trim(np.concatenate([quiet, speech_like(1, 0), quiet]))
    assert len(utterance) < 1.2 * SAMPLE_RATE
    assert len(trim(quiet)) == len(trim(quiet[:0])) == 0
    speech = join([utterance, quiet[:0], utterance, utterance], 10**9)
    assert 3 * len(utterance) - len(speech) == 2 * SAMPLE_RATE // 100
    assert [len(clip) for clip in cut(speech, 20_000)] == [20_000] * (len(speech) // 20_000)
    assert cut(speech[: SAMPLE_RATE - 1], 20_000) == []


def test_stereo_of_another_rate_is_read_at_16_khz(tmp_path):
    wave = speech_like(1, 0, 44_100)
    assert abs(len(read(write(tmp_path / "stereo.wav", np.stack([wave, wave], axis=1), 44_100))) - SAMPLE_RATE) <= 1
