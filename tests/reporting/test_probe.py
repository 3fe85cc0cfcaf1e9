"""The probe finds the hidden state that carries the label, of utterances and of trials."""

import json

import numpy as np
import pytest
import torch

import hybrid_pruning as hp
from corpus import write_corpus, write_learnable_speakers, write_trials, write_wavlm
from hybrid_pruning.models.backbone import Hidden
from hybrid_pruning.reporting.probe import classify, print_probe


class Planted(torch.nn.Module):
    """Three hidden states of noise; the mean of `state` is above 0 where the wave's pitch is high."""

    depth, width, minimum_samples = 3, 4, 400

    def __init__(self, state):
        super().__init__()
        self.weight, self.state = torch.nn.Parameter(torch.zeros(1)), state

    def forward(self, wave, lengths):
        wave = torch.as_tensor(wave)
        own = (torch.fft.rfft(wave.unfold(1, 400, 400)).abs().argmax(-1) > 28).float()  # of 45 and 13
        generator = torch.Generator().manual_seed(int(1000 * wave.abs().sum()) % 2**31)
        frames = torch.randn(self.depth, *own.shape, self.width, generator=generator)
        frames[self.state] += 2 * own.unsqueeze(-1)
        return Hidden(frames, None if lengths is None else torch.as_tensor(lengths) // 400)


@pytest.mark.parametrize("state", [0, 2])
def test_the_state_that_carries_the_label_is_found(tmp_path, state, capsys):
    train, dev = (write_corpus(tmp_path / str(seed), 24, seed) for seed in (1, 2))
    found = hp.probe(Planted(state), train, dev, workers=1)
    assert np.argmin(found.eer) == state
    assert found.eer[state] == 0
    assert all(rate > 0.1 for place, rate in enumerate(found.eer) if place != state)
    print_probe(found)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1 + state].split()[:2] == [str(state), "0.00"]
    assert lines[1 + state].rstrip().endswith("best")
    assert found.utterances == 24


def test_the_classifier_is_the_optimum():
    """Of the mean loss and L2: the residuals' product with the features is the weights times L2, 0.01."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((200, 2)), np.arange(200) % 2 == 0
    x[:, 0] = 5 * (x[:, 0] + 2 * y) + 7
    scores = classify(x, y, x)
    z = (x - x.mean(0)) / x.std(0)
    weight = np.linalg.lstsq(z, scores, rcond=None)[0]
    offsets = np.linspace(-3, 3, 601)
    residual = y[:, None] - 1 / (1 + np.exp(-(scores[:, None] + offsets)))
    best = residual[:, np.argmin(np.abs(residual.sum(0)))]
    np.testing.assert_allclose(z.T @ best / 200, 0.01 * weight, atol=2e-3)


def test_encoders_and_trials(tmp_path, cli):
    sets = {name: write_learnable_speakers(tmp_path / name, ["s0", "s1", "s2"], 3, seed=1) for name in ("train", "dev")}
    write_wavlm(tmp_path / "wavlm")
    write_trials(tmp_path / "dev.trials", sets["dev"])
    found = cli("probe", "wavlm", *map(str, sets.values()), "--trials", "dev.trials", "--json", "probe.json")
    assert found.code == 0, found.err
    assert "by cosine of means" in found.out
    assert len(json.loads((tmp_path / "probe.json").read_text())["eer"]) == 4
    found = cli("probe", "wavlm", *map(str, sets.values()))
    assert (found.code, "no utterance is labelled 'spoof'" in found.err) == (2, True)


def test_runs_are_inspected_and_probed_as_exported(pristine, cli):
    run, dev = str(pristine / "run"), pristine / "dev" / "manifest.tsv"
    for command in (
        ("inspect", run, "--json", "inspect.json"),
        ("probe", run, str(pristine / "train" / "manifest.tsv"), str(dev)),
    ):
        found = cli(*command)
        assert found.code == 0, found.err
        assert "hidden state" in found.out
