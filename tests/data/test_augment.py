"""The recipe's augmentation: the same in every process; impossible settings are one line before training."""

import pickle
import runpy
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from corpus import MINUTE, SAMPLE_RATE_HZ, configure, write_world
from hybrid_pruning.config import AugmentConfig, load_config, save_config
from hybrid_pruning.data.augment import BUILDERS, Augmentation, Kind, build_augmentation
from hybrid_pruning.data.augment.codec import CODECS
from hybrid_pruning.data.batches import Crops
from hybrid_pruning.data.manifest import Utterance
from hybrid_pruning.data.workers import work_in_processes
from hybrid_pruning.errors import InputError
from hybrid_pruning.tasks import Label
from hybrid_pruning.training.launch import train
from sounds import rng, tone, vowel, write_sounds

CROP = 4000


def apply(operation, value):
    return lambda wave, _: operation(wave, np.float32(value))


def kinds(*probabilities):
    """Kinds that leave their mark: the first adds 0.001, the second 0.002, the third 0.004."""
    return [Kind(str(index), p, apply(np.add, 0.001 * 2**index)) for index, p in enumerate(probabilities)]


def marks(augmentation, times=4000):
    """Return how often each combination of kinds was applied, as fractions."""
    silence, source = np.zeros(1, dtype=np.float32), rng()
    found = [round(float(augmentation(silence, source)[0]) * 1000) for _ in range(times)]
    return np.bincount(found, minlength=8) / times


def build(tmp_path, **sections):
    """Build what a recipe asks for; folders are made of vowels."""
    for name in ("noise", "music", "babble", "reverberation"):
        if name in sections:
            folder = write_sounds(tmp_path / name, [0.1 * vowel(9000 + seed, seed=seed) for seed in range(4)])
            sections[name] = {"folder": folder, **sections[name]}
    return build_augmentation(AugmentConfig.model_validate(sections))


def all_kinds(**changes):
    return {**{name: {} for name in BUILDERS}, "choose": "each", **changes}


@pytest.fixture
def utterances(tmp_path):
    """Six clips; the first two share a recording, the third and fourth another."""
    found = []
    for index in range(6):
        path = tmp_path / "clips" / f"{index}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, vowel(CROP + 1000 * index, 100 + 10 * index), SAMPLE_RATE_HZ, subtype="FLOAT")
        recording = f"r{index // 2}" if index < 4 else "-"
        found.append(Utterance(str(index), path, Label.SPOOF, recording=recording))
    return found


def crops(utterances, augment, seed=0):
    return Crops(utterances, [0] * len(utterances), CROP, seed, augment)


@pytest.mark.parametrize("probability", [0.0, 0.3, 0.8, 1.0])
def test_as_many_examples_are_augmented_as_asked(probability):
    found = marks(Augmentation(kinds(1.0), probability, "one"))
    assert found[1] == pytest.approx(probability, abs=0.025)
    assert found[0] + found[1] == pytest.approx(1)


def test_one_kind_in_proportion_or_each_by_its_own_probability():
    found = marks(Augmentation(kinds(0.5, 0.25, 0.05), 1.0, "one"))
    np.testing.assert_allclose(found[[1, 2, 4]], [0.625, 0.3125, 0.0625], atol=0.025)
    assert found[[1, 2, 4]].sum() == pytest.approx(1)
    found = marks(Augmentation(kinds(0.5, 0.2, 1.0), 0.8, "each"))
    np.testing.assert_allclose(found[[0, 4, 5, 6, 7]], [0.2, 0.32, 0.32, 0.08, 0.08], atol=0.025)


def test_full_scale_is_met_as_a_whole():
    wave = tone(500)
    loud = Augmentation([Kind("a", 1.0, apply(np.multiply, 4))], 1.0, "one")(wave, rng())
    assert np.abs(loud).max() == pytest.approx(1)
    np.testing.assert_allclose(loud, 2 * wave, atol=1e-3)
    soft = Augmentation([Kind("a", 1.0, apply(np.multiply, 0.5))], 1.0, "one")(wave, rng())
    assert np.array_equal(soft, wave / 2)


def test_nothing_is_augmented_unless_asked_for():
    off = {"noise": {"folder": "nowhere", "probability": 0}}, {"noise": {"folder": "nowhere"}, "probability": 0}
    for sections in ({}, {"volume": None}, *off):
        assert build_augmentation(AugmentConfig.model_validate(sections)) is None


def test_every_kind_is_there_in_the_order_of_the_recipe(tmp_path, capsys):
    assert str(Augmentation(kinds(1.0, 1.0), 0.8, "one")) == "80% of the examples by one of 0 50%, 1 50%"
    assert str(Augmentation(kinds(0.5, 1.0), 1.0, "each")) == "100% of the examples by each of 0 50%, 1 100%"
    augmentation = build(tmp_path, **all_kinds())
    kinds_known = [name for name in AugmentConfig.model_fields if name not in ("probability", "choose")]
    assert [kind.name for kind in augmentation.kinds] == list(BUILDERS) == kinds_known
    assert "augmenting 100% of the examples by each of speed 100%" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("name", BUILDERS)
def test_every_kind_leaves_length_type_and_the_wave_given(tmp_path, name):
    augmentation = build(tmp_path, **{name: {}})
    for wave in (vowel(), np.zeros(5000, dtype=np.float32), vowel(1000), 3 * vowel(), np.ones(1, dtype=np.float32)):
        before = wave.copy()
        for seed in range(3):
            augmented = augmentation(wave, rng(seed))
            assert (augmented.dtype, augmented.shape) == (np.float32, wave.shape)
            assert np.isfinite(augmented).all()
            assert np.abs(augmented).max() <= 1
        assert np.array_equal(wave, before)


def test_the_generator_decides_alone_in_spawned_processes_too(tmp_path):
    augmentation = build(tmp_path, **all_kinds())
    first = augmentation(vowel(), rng(1))
    augmentation(tone(700), rng(2))  # whatever came before
    assert np.array_equal(first, augmentation(vowel(), rng(1)))
    assert np.array_equal(first, pickle.loads(pickle.dumps(augmentation))(vowel(), rng(1)))
    assert not np.array_equal(first, augmentation(vowel(), rng(2)))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_the_same_for_any_number_of_workers_and_ranks(tmp_path, utterances, workers):
    augmentation = build(tmp_path, **all_kinds(codec={"codecs": ["mulaw", "narrowband", "mp3"]}), probability=0.8)
    addresses = [[(0, 0), (0, 1), (0, 2), (0, 3)], [(1, 4), (1, 5), (1, 0), (1, 2)]]
    expected = torch.stack([crops(utterances, augmentation)[address].wave for batch in addresses for address in batch])
    for share in (slice(None), slice(0, None, 2), slice(1, None, 2)):  # each rank has its share of every batch
        found = work_in_processes(crops(utterances, augmentation).load, [batch[share] for batch in addresses], workers)
        assert torch.equal(torch.cat([batch.wave for batch in found]), expected[share])


def test_epochs_and_seeds_differ(tmp_path, utterances):
    augmentation = build(tmp_path, volume={"gain_db": [-40, -1]})
    short = [(0, 0), (1, 0)]  # the first clip is as long as a crop: only the augmentation differs
    assert not torch.equal(*(crops(utterances, augmentation)[address].wave for address in short))
    assert torch.equal(*(crops(utterances, None)[address].wave for address in short))
    assert not torch.equal(*(crops(utterances, augmentation, seed)[0, 0].wave for seed in (0, 1)))


def test_utterances_of_one_recording_share_the_noise(tmp_path, utterances):
    augmentation = build(tmp_path, noise={"snr_db": [0, 20]})

    def added(epoch, index):
        clean, noisy = (crops(utterances, augment)[epoch, index].wave for augment in (None, augmentation))
        return (noisy - clean) / clean.square().mean().sqrt()

    for epoch in range(3):
        # though the second of the pair is longer, and its place is drawn by lot
        torch.testing.assert_close(added(epoch, 0), added(epoch, 1), atol=2e-4, rtol=0)
        assert (added(epoch, 0) - added(epoch, 2)).abs().max() > 0.05


def test_a_bad_recording_is_an_error_of_its_example(tmp_path, utterances):
    augmentation = build(tmp_path, noise={})
    for path in (tmp_path / "noise").iterdir():
        path.write_text("changed since it was listed")
    with pytest.raises(InputError, match="is text"):
        crops(utterances, augmentation)[0, 0]


UNREADABLE = {
    "folder is missing": ({"noise": {}}, r"key 'augment\.noise\.folder' is missing"),
    "typo": ({"nois": {}}, r"key 'augment\.nois' is unknown; did you mean 'noise'"),
    "typo within": ({"volume": {"gain": [0, 1]}}, r"key 'augment\.volume\.gain' is unknown; did you mean 'gain_db'"),
    "falling range": ({"volume": {"gain_db": [6, -6]}}, r"augment\.volume\.gain_db: a range is \[lowest, highest\]"),
    "no codec": ({"codec": {"codecs": ["encodec"]}}, r"augment\.codec\.codecs\.0: .*'opus'.*found 'encodec'"),
    "no algorithm": ({"rawboost": {"algorithm": 9}}, r"augment\.rawboost\.algorithm: .*found 9"),
    "too fast": ({"speed": {"factors": [3]}}, r"augment\.speed\.factors\.0: .*less than or equal to 2"),
    "no talker": ({"babble": {"folder": "a", "speakers": [0, 3]}}, r"augment\.babble\.speakers\.0: .*greater"),
    "too likely": ({"probability": 1.5}, r"augment\.probability: .*found 1\.5"),
    "neither": ({"choose": "some"}, r"augment\.choose: .*'one' or 'each'"),
}


@pytest.mark.parametrize(("augment", "expected"), UNREADABLE.values(), ids=UNREADABLE.keys())
def test_a_mistake_in_the_recipe_names_its_key(augment, expected):
    recipe = {**MINUTE, "data": {"train": "a", "dev": "b"}, "backbone": {"source": "c"}, "augment": augment}
    with pytest.raises(InputError, match=expected) as caught:
        configure(recipe)
    assert "\n" not in str(caught.value)


def test_training_examples_are_augmented_and_nothing_else(tmp_path, monkeypatch):
    seen = []
    call = Augmentation.__call__

    def count(self, wave, source):
        seen.append(len(wave))
        return call(self, wave, source)

    monkeypatch.setattr(Augmentation, "__call__", count)
    recipe = {**write_world(tmp_path / "world"), "augment": {"volume": {}, "rawboost": {}}}
    train(configure(recipe, training__epochs=1), tmp_path / "run")
    assert len(seen) == 24, "the dev set's 8 are left alone"
    assert set(seen) == {800}


def test_recipes_survive_the_round_trip(tmp_path):
    augment = {"noise": {"folder": "musan/noise"}, "codec": {"codecs": list(CODECS)}, "rawboost": {}}
    config = configure({"data": {"train": "a", "dev": "b"}, "backbone": {"source": "c"}, "augment": augment})
    save_config(config, tmp_path / "saved.yaml")
    assert load_config(tmp_path / "saved.yaml") == config
    off = load_config(tmp_path / "saved.yaml", ["augment.noise=null", "augment.rawboost.probability=0"])
    assert off.augment.noise is None
    assert off.augment.codec == config.augment.codec


def test_the_sheet_of_spectrograms(tmp_path):
    script = runpy.run_path(str(Path(__file__).parents[2] / "dev" / "augmentations.py"))
    clip = write_sounds(tmp_path / "clips", [vowel(seed=seed) for seed in range(5)]) / "00.wav"
    script["RAWBOOST"].clear()
    for name in set(CODECS) - {"mulaw", "speex"}:
        del script["CODEC_NAMES"][name]
    transforms, missing = script["demonstrate"](clip, tmp_path)
    assert len(transforms) + len(missing) == 9
    script["draw_sheet"]({"the clip": vowel(), "0.9": transforms["speed 0.9"](vowel(), rng())}, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as drawn:
        assert drawn.size == (1360, 240)
        assert len(np.unique(np.asarray(drawn))) > 50
    script["measure_costs"].__globals__["ROUNDS"] = 1
    assert script["measure_costs"](vowel(), transforms, tmp_path).keys() == transforms.keys()
