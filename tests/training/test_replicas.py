"""The replicas of public configurations learn at the public trainers' effective rates, with their gradient factors.

Both public trainers multiply every rate by processes x batch / 64, raise it from zero over the warm-up and let it decay
exponentially meanwhile, so that the peak is below the product. The gradient multiplier of MHFA reaches the encoder and
its gates; another, 0.1, the convolutional extractor and its gates; neither the Lagrangian.
"""

import math
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from corpus import write_speaker_world, write_wavlm, write_world
from hybrid_pruning.config import expand_stages, load_config
from hybrid_pruning.data.batches import Batch
from hybrid_pruning.models.heads import Classes
from hybrid_pruning.models.speech_model import SpeechModel, load_backbone
from hybrid_pruning.training.export import export
from hybrid_pruning.training.launch import train
from hybrid_pruning.training.objective import Optimizers, build_objective, learning_rate_factor, margin_share
from hybrid_pruning.training.runs import Run

RECIPES = Path(__file__).parents[2] / "recipes"
EPOCH = 1000  # steps
SPEAKERS = 7


class Row(NamedTuple):
    """The head's rate half-way through the warm-up, at its end and in the last step; the encoder's share; factors."""

    name: str
    stage: str
    processes: int
    half: float
    peak: float
    last: float
    encoder: float
    hidden: float
    extractor: float
    decay: float = 0.0


TABLE = [
    # YAML 5e-4 -> 5e-5, 16 utterances, 5 epochs, 2 of warm-up
    Row("asvspoof5/paper/s10", "", 1, 3.944e-5, 4.976e-5, 1.25e-5, 1, 1, 0.1),
    # 5e-6 -> 1e-7
    Row("asvspoof5/paper/s30", "", 1, 2.858e-7, 2.614e-7, 2.5e-8, 1, 0.01, 0.001),
    # the same, 32 utterances; dense, the encoder at a tenth
    Row("asvspoof5/paper/s0", "", 1, 5.716e-7, 5.228e-7, 5e-8, 0.1, 1, 0.1, 1e-7),
    Row("spoofceleb/paper/s10", "", 1, 3.944e-5, 4.976e-5, 1.25e-5, 1, 1, 0.1),
    # 1e-1 -> 5e-3, 8 x 128 utterances, 15 epochs, 3 of warm-up, frozen
    Row("voxceleb/paper/frozen", "frozen", 8, 0.5929, 0.8788, 0.08, 0, 0, 0, 1e-7),
    # 1e-4 -> 1e-6, 8 x 128 utterances, 10 epochs dense, 12 pruned, 2 of warm-up
    Row("voxceleb/paper/s0", "dense", 8, 5.048e-4, 6.370e-4, 1.6e-5, 1, 0.1, 0.01, 1e-7),
    Row("voxceleb/paper/s60", "joint", 8, 5.450e-4, 7.427e-4, 1.6e-5, 1, 0.1, 0.01),
    Row("voxceleb/paper/s80", "joint", 8, 5.450e-4, 7.427e-4, 1.6e-5, 1, 0.1, 0.01),
    # 5e-2 -> 5e-3, 8 x 64 utterances, 10 epochs, 3 of warm-up, frozen
    Row("voxceleb/paper/large-frozen", "frozen", 8, 0.1416, 0.2005, 0.04, 0, 0, 0, 1e-10),
    # 1e-5 -> 1e-7 and 1e-4 -> 1e-6, 8 x 32 utterances, 8 epochs, 2 of warm-up
    Row("voxceleb/paper/large-s0", "dense", 8, 1.125e-5, 1.265e-5, 4e-7, 1, 0.1, 0.01, 1e-10),
    Row("voxceleb/paper/large-s70", "joint", 8, 1.125e-4, 1.265e-4, 4e-6, 1, 0.1, 0.01),
    Row("cnceleb/paper/s40", "frozen", 8, 0.5929, 0.8788, 0.08, 0, 0, 0, 1e-7),
    Row("cnceleb/paper/s40", "joint", 8, 5.450e-4, 7.427e-4, 1.6e-5, 1, 0.1, 0.01),
]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return write_wavlm(tmp_path_factory.mktemp("wavlm"), hidden_dropout=0.1)


def read(row):
    config = load_config(RECIPES / f"{row.name}.yaml")
    return expand_stages(config)[row.stage] if row.stage else config


def build(config, encoder):
    torch.manual_seed(config.seed)
    spoofing = config.task == "anti-spoofing"
    classes = Classes(("spoof", "bonafide"), (1, 1)) if spoofing else None
    model = SpeechModel.build(load_backbone(encoder), config.head, classes)
    return build_objective(config, model, 0 if spoofing else SPEAKERS).train()


def precise(objective):
    """Return it in float64 but for the loss, in place: sums that cancel are rounded by what a factor changes."""
    objective.double()
    if objective.margin is not None:
        objective.margin.float()
    return objective


def gradients(objective, loss):
    """Return the gradients of one loss, of the same batch, gates and dropout at every call."""
    wave = torch.randn(4, 3000, generator=torch.Generator().manual_seed(1))
    if objective.gates is not None:
        objective.gates.draws = 0
    torch.manual_seed(2)
    objective.zero_grad()
    objective(Batch(wave, None, torch.tensor([0, 1, 1, 0]), torch.arange(4)), 0.9)[loss].backward()
    return {name: p.grad.clone() for name, p in objective.named_parameters() if p.grad is not None}


def part_of(name):
    """Return the part of the network, or the gates, that a parameter belongs to."""
    if name.startswith("model.backbone."):
        return "extractor" if "feature_extractor." in name else "encoder"
    return "gates" if name.startswith("gates.") else name.partition(".")[0]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.name} {row.stage}")
def test_every_parameter_learns_at_the_public_trainers_rate(row, encoder, monkeypatch):
    monkeypatch.setattr("hybrid_pruning.distributed.count", lambda: row.processes)
    config = read(row)
    training, objective = config.training, build(config, encoder)
    optimizers = Optimizers(objective, training, config.pruning.initial_reg_lr)
    groups = [optimizers.network.param_groups, [] if optimizers.pruning is None else optimizers.pruning.param_groups]
    owner = {id(p): group for some in groups for group in some for p in group["params"]}
    warmup, total = training.lr_warmup_epochs * EPOCH, training.epochs * EPOCH
    for step, rate in ((warmup / 2 - 1, row.half), (warmup - 1, row.peak), (total - 1, row.last)):
        optimizers.set_learning_rates(learning_rate_factor(training, int(step), total, warmup))
        for name, parameter in objective.named_parameters():
            if not parameter.requires_grad or (row.encoder == 0 and name.startswith("model.backbone.")):
                assert id(parameter) not in owner, name
                continue
            share = {"encoder": row.encoder, "extractor": row.encoder}.get(part_of(name), 1)
            pruning = part_of(name) in ("gates", "lagrangian")
            found = owner[id(parameter)]
            assert found["lr"] == pytest.approx(0.05 if pruning else rate * share, rel=2e-3), f"{name} at step {step}"
            assert found["weight_decay"] == (row.decay if parameter.dim() > 1 else 0), name
    assert isinstance(optimizers.network, torch.optim.SGD if row.stage == "frozen" else torch.optim.AdamW)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.name} {row.stage}")
def test_the_tasks_gradient_has_the_public_codes_factors(row, encoder):
    config = read(row)
    objective = precise(build(config, encoder))
    found = gradients(objective, "task")
    objective.model.backbone.extractor_gradient = objective.model.head.gradient = 1.0
    whole = gradients(objective, "task")
    assert objective.model.backbone.training, "dropout is active, in a frozen encoder too"
    if row.encoder == 0:
        assert not any("backbone" in name for name in found)
    factors = {"encoder": row.hidden, "extractor": row.extractor}
    for name, gradient in found.items():
        factor = factors.get(part_of(name), 1.0)
        if part_of(name) == "gates":
            factor = row.extractor if name.startswith("gates.conv.") else row.hidden
        expected = factor * whole[name]
        assert (gradient - expected).norm() <= 1e-6 * expected.norm() + 1e-12, name
    if objective.lagrangian is not None:
        objective.lagrangian.lambda1.data.fill_(1.0)
        same = gradients(objective, "sparsity")
        again = precise(build(config, encoder))
        assert again.lagrangian is not None
        again.lagrangian.lambda1.data.fill_(1.0)
        expected = gradients(again, "sparsity")
        for name in same:
            assert torch.equal(same[name], expected[name]), f"{name}: of the size as it is"


def test_gates_start_and_gradients_are_clipped_as_in_public_code(encoder):
    spoofing, verification, frozen = (
        read(next(row for row in TABLE if (row.name, row.stage) == key))
        for key in (("asvspoof5/paper/s10", ""), ("voxceleb/paper/s80", "joint"), ("cnceleb/paper/s40", "frozen"))
    )
    for config in (spoofing, verification):
        gates = build(config, encoder).gates
        assert gates is not None
        for name, gate in gates.items():
            start = 0.0 if name.startswith("interm") else math.log(99)
            assert (gate.log_alpha - start).abs().max().item() < 0.05, name
            assert gate.slot.size == 1 or gate.log_alpha.std().item() > 0
    clipping = [(config.training.clip_norm, config.training.clip_gates) for config in (spoofing, verification, frozen)]
    assert clipping == [(3.0, True), (None, False), (None, False)]
    assert [config.training.average for config in (spoofing, verification, frozen)] == [2, 1, 3]
    weights = build(frozen, encoder).margin
    assert weights is not None
    assert weights.weight.abs().max().item() == pytest.approx((6 / (3 * SPEAKERS + 256)) ** 0.5, rel=1e-2)


def test_the_margin_grows_over_epochs_two_to_four_of_the_frozen_stage():
    frozen, joint = expand_stages(load_config(RECIPES / "voxceleb" / "paper" / "s70.yaml")).values()
    epochs = (0, 1, 2.5, 4, 14)
    found = [frozen.objective.margin * margin_share(frozen.objective, int(at * EPOCH), EPOCH) for at in epochs]
    assert found == pytest.approx([0, 0, 0.2 * (1 - 0.001**0.5), 0.2, 0.2], abs=1e-4)
    assert {margin_share(joint.objective, int(at * EPOCH), EPOCH) for at in epochs} == {1.0}


@pytest.mark.parametrize(("name", "stages"), [("asvspoof5/paper/s30", []), ("voxceleb/paper/s70", ["frozen", "joint"])])
def test_a_replica_trains_and_is_cut_to_its_target(name: str, stages: list[str], encoder: Path, tmp_path: Path):
    """From the file as it is, but for the data, the encoder, and the length."""
    world = (write_speaker_world if stages else write_world)(tmp_path)
    given = [f"{key}.{part}={world[key][part]}" for key, part in (("data", "train"), ("data", "dev"))]
    given += [f"data.trials.dev={world['data']['trials']['dev']}"] if stages else []
    given += [f"backbone.source={encoder}", "augment.probability=0", "data.workers=0", "data.crop_seconds=0.1"]
    given += ["training.batch_size=8", "training.epochs=2", "pruning.sparsity_warmup_epochs=1"]
    given += [f"stages.frozen.training.{key}" for key in ("epochs=5", "batch_size=8")] if stages else []
    run = train(RECIPES / f"{name}.yaml", tmp_path / "run", given)
    assert [found.folder.name for found in Run(run).stages()] == stages
    model = export(run, tmp_path / "model")
    assert model.provenance["averaged_checkpoints"] == (1 if stages else 2)
    kept = sum(p.numel() for p in model.backbone.parameters())
    dense = sum(p.numel() for p in load_backbone(encoder).parameters())
    assert 1 - kept / dense == pytest.approx(0.7 if stages else 0.3, abs=0.01)
    read = SpeechModel.from_pretrained(tmp_path / "model")
    wave = torch.randn(2, 3000, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(read(wave), model(wave))
