"""RawBoost: notches where they belong, harmonics as weak as asked, impulses few, noise at its ratio; nothing moves."""

from typing import Any

import numpy as np
import pytest
from scipy.signal import firwin

from corpus import SAMPLE_RATE_HZ
from hybrid_pruning.config import RawBoostConfig
from hybrid_pruning.data.augment.effects import limit
from hybrid_pruning.data.augment.rawboost import (
    RawBoost,
    add_convolutive_noise,
    add_impulsive_noise,
    add_stationary_noise,
    design_notch,
    draw_notches,
)
from sounds import Wave, lag, level_db, rng, snr_db, tone, vowel

config = RawBoostConfig
HARMLESS: Any = {"notches": 1, "centre_hz": (7950, 7950), "width_hz": (50, 50), "taps": (11, 11)}
AT_3_KHZ: Any = {"notches": 1, "centre_hz": (3000, 3000), "width_hz": (800, 800), "taps": (101, 101)}


def gain_db(taps: np.ndarray[Any, Any], hertz: float) -> float:
    turn = np.exp(-2j * np.pi * hertz / SAMPLE_RATE_HZ * np.arange(len(taps)))
    return float(20 * np.log10(np.abs(np.sum(taps * turn)) + 1e-12))


@pytest.mark.parametrize(("low", "high"), [(1000, 2000), (3400, 4600), (6000, 7000)])
def test_a_notch_is_scipys_windowed_one(low: float, high: float):
    ours, theirs = design_notch(low, high, 101), firwin(101, (low, high), window="hamming", fs=SAMPLE_RATE_HZ)
    np.testing.assert_allclose(ours / ours.sum(), theirs, atol=1e-9)
    assert gain_db(ours, (low + high) / 2) < -40
    assert gain_db(ours, low - 500) == pytest.approx(0, abs=0.1)
    assert gain_db(ours, high + 500) == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize(("low", "high", "cut", "kept"), [(-300, 1000, 0, 2000), (7000, 8400, 8000, 6000)])
def test_notches_at_the_edges_of_the_band(low: float, high: float, cut: float, kept: float):
    taps = design_notch(low, high, 101)
    assert gain_db(taps, cut) < -40
    assert gain_db(taps, kept) > -0.1


@pytest.mark.parametrize("seed", range(20))
def test_cascades_are_symmetric_with_a_largest_gain_of_one(seed: int):
    taps = draw_notches(config(), rng(seed))
    assert len(taps) % 2 == 1
    assert 5 * 10 < len(taps) <= 5 * 100 + 1
    np.testing.assert_allclose(taps, taps[::-1], atol=1e-12)
    assert max(gain_db(taps, hertz) for hertz in range(0, 8001, 10)) == pytest.approx(0, abs=0.02)


def test_a_drawn_notch_is_where_its_ranges_say():
    taps = draw_notches(config(**AT_3_KHZ), rng())
    assert gain_db(taps, 3000) < -25
    assert gain_db(taps, 3800) > -0.3
    assert gain_db(taps, 2200) > -0.3


def test_linear_filtering_changes_the_notches_alone():
    wave = tone(1000) + tone(3000, peak=0.2)
    filtered = add_convolutive_noise(wave, config(order=1, **AT_3_KHZ), rng())
    middle = slice(200, -200)
    assert level_db(filtered[middle], 3000) - level_db(wave[middle], 3000) < -25
    np.testing.assert_allclose(filtered[middle], tone(1000)[middle], atol=0.02)


@pytest.mark.parametrize("loss", [5.0, 20.0])
def test_the_square_is_weaker_by_its_loss(loss: float):
    settings = config(order=2, nonlinear_loss_db=(loss, loss), **HARMLESS)
    distorted = add_convolutive_noise(tone(1000, peak=0.5), settings, rng())[200:-200]
    # the square of a tone of peak a is a tone of twice its frequency and peak a^2 / 2
    assert level_db(distorted, 2000) == pytest.approx(20 * np.log10(0.125) - loss, abs=0.2)
    assert level_db(distorted, 1000) == pytest.approx(20 * np.log10(0.5), abs=0.2)
    assert level_db(distorted, 3000) < -80


def test_the_order_is_the_highest_power():
    settings = config(order=5, nonlinear_loss_db=(5, 5), **HARMLESS)
    distorted = add_convolutive_noise(tone(1000, peak=1.0), settings, rng())[200:-200]
    assert level_db(distorted, 5000) > -40
    assert level_db(distorted, 6000) < -80
    linear = add_convolutive_noise(tone(1000), config(order=1, **HARMLESS), rng())[200:-200]
    assert level_db(linear, 2000) < -80


@pytest.mark.parametrize("seed", range(5))
def test_convolutive_noise_has_no_mean_and_no_delay(seed: int):
    wave = vowel(seed=seed)
    distorted = add_convolutive_noise(wave, config(), rng(seed))
    assert abs(distorted.mean()) < 1e-6
    assert abs(lag(wave, distorted)) <= 2


def test_impulses_hit_few_samples_in_proportion_to_themselves():
    wave, source, fractions = vowel(), rng(), []
    for _ in range(100):
        hit = add_impulsive_noise(wave, config(impulses=0.1, impulse_gain=2.0), source)
        changed = hit != wave
        fractions.append(changed.mean())
        ratio = np.abs(hit - wave)[changed] / np.abs(wave)[changed]
        assert ratio.max(initial=0) <= 2.0 + 1e-3
    assert 0.08 < max(fractions) <= 0.1
    assert min(fractions) < 0.02
    # the mean of |u1 u2| for two uniform numbers within -1 and 1 is 1/4
    assert ratio.mean() == pytest.approx(2.0 / 4, abs=0.1)


@pytest.mark.parametrize("asked", [10.0, 40.0])
def test_stationary_noise_has_its_ratio_and_its_notch(asked: float):
    wave = vowel(4 * SAMPLE_RATE_HZ)
    noisy = add_stationary_noise(wave, config(snr_db=(asked, asked), **AT_3_KHZ | {"width_hz": (1000, 1000)}), rng())
    assert snr_db(wave, noisy) == pytest.approx(asked, abs=0.02)
    power = np.abs(np.fft.rfft(noisy.astype(np.float64) - wave)) ** 2
    hertz = np.fft.rfftfreq(len(wave), 1 / SAMPLE_RATE_HZ)
    notch, rest = power[(hertz > 2900) & (hertz < 3100)].mean(), power[hertz > 4500].mean()
    assert 10 * np.log10(notch / rest) < -25


def side_by_side(wave: Wave, settings: RawBoostConfig, source: np.random.Generator) -> Wave:
    filtered = limit(add_convolutive_noise(wave, settings, source))
    return limit(filtered + limit(add_impulsive_noise(wave, settings, source)))


LNL, ISD, SSI = add_convolutive_noise, add_impulsive_noise, add_stationary_noise
BY_NUMBER: dict[int, Any] = {
    **{1: (LNL,), 2: (ISD,), 3: (SSI,), 4: (LNL, ISD, SSI), 5: (LNL, ISD), 6: (LNL, SSI), 7: (ISD, SSI)},
    8: (side_by_side,),
}


@pytest.mark.parametrize("number", BY_NUMBER)
def test_algorithms_are_numbered_as_in_the_public_code(number: Any):
    settings, wave, source = config(algorithm=number), vowel() * 2, rng(3)  # so that full scale is reached
    found, expected = RawBoost(settings)(wave, rng(3)), wave
    for step in BY_NUMBER[number]:
        expected = limit(step(expected, settings, source))
    assert found.dtype == np.float32
    assert np.array_equal(found, expected)
    assert not np.array_equal(found, RawBoost(settings)(wave, rng(4)))
    assert np.abs(found).max() <= 1
    assert np.array_equal(wave, vowel() * 2), "the wave given is left alone"

    for samples in (1, 30, 8000):
        assert not RawBoost(settings)(np.zeros(samples, dtype=np.float32), rng()).any()
        short = RawBoost(settings)(tone(700, samples), rng())
        assert len(short) == samples
        assert np.isfinite(short).all()
