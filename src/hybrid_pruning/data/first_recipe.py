"""Manifests at hand -> a first recipe, with the counts that its values come from beside them."""

import os
from collections import Counter
from math import ceil, isnan
from pathlib import Path
from statistics import median

import yaml

from hybrid_pruning.config import load_config
from hybrid_pruning.data.manifest import UNKNOWN, Utterance, read_manifest
from hybrid_pruning.errors import InputError
from hybrid_pruning.files import atomic_write
from hybrid_pruning.tasks import Label

STEPS = 2000
"""Of a stage, at least."""
BATCH = 16
UNEVEN = 3
"""Ratio of the classes from which an epoch has as many of each."""
TEMPLATE = """\
# {task}: {backbone}, fine-tuned, pruned while it keeps learning, and healed. A beginning, made of counts, not of
# trials: compare with stages of other lengths and rates, and with recipes/ of the project, before you trust it.
#
#   hybrid-pruning run {out} --out JOB      all of it, to a table and a report; or one after another:
#   hybrid-pruning train {out} --out RUN    then export, score, evaluate
#
# Any value can be overruled: --set pruning.target_sparsity=0.7
task: {task}
seed: 42
data:
  train: {train}    # {train_size}
  dev: {dev}    # {dev_size}
{sets}\
  crop_seconds: {crop}    # half of the training recordings have {median} s or more; shorter ones repeat
  workers: {workers}
{balance}\
# augment:    # noise and rooms: MUSAN is openslr.org/17, RIRS_NOISES openslr.org/28
#   probability: 0.8
#   choose: one
#   noise: {{folder: MUSAN/noise, snr_db: [0, 15]}}
#   reverberation: {{folder: RIRS_NOISES/simulated_rirs}}
backbone:
  source: {backbone}    # a hub id, or a folder
{objective}\
training:
  epochs: {epochs}    # of {steps} steps, in each stage
  batch_size: {batch}    # as memory allows
  lr: 5.0e-4    # of the head; the encoder's is a tenth
  final_lr: 5.0e-5
  lr_warmup_epochs: 1
  backbone_lr_ratio: 0.1
pruning:
  use_pruning_loss: True
  target_sparsity: 0.5    # removed
  sparsity_warmup_epochs: {growth}    # over which the target grows
  freeze_epochs: 1    # at the end, with the units that stay
stages:
  dense:    # the teacher
    pruning: {{use_pruning_loss: False}}
  joint:
    distillation: {{teacher: dense}}
    training: {{final_lr: 2.0e-4, lr_warmup_epochs: 0.5}}
  heal:    # the cut network, held to the same teacher
    pruning: {{use_pruning_loss: False}}
    distillation: {{teacher: dense}}
    training: {{lr: 2.0e-4, final_lr: 2.0e-5, lr_warmup_epochs: 0}}
"""
OBJECTIVE = """\
objective:
  kind: aam    # additive angular margin
  scale: 32
  margin: 0.2    # radians
"""


def init(manifests: str | Path, out: str | Path, backbone: str = "microsoft/wavlm-base") -> Path:
    """Write a commented recipe for a folder of manifests as `prepare` makes it, train.tsv and dev.tsv among them.

    Recordings that are all bona fide, of several speakers, make a recipe for speaker verification.
    """
    folder, out = Path(manifests), Path(out)
    if out.exists():
        raise InputError(f"{out}: is there already; give --out another name")
    for name in ("train.tsv", "dev.tsv"):
        if not (folder / name).is_file():
            advice = "make it with `prepare`, for some corpora with --dev-share 0.1"
            raise InputError(f"{folder}: has no {name}; {advice}")
    train, dev = (read_manifest(folder / name) for name in ("train.tsv", "dev.tsv"))
    labels, speakers = Counter(one.label for one in train), {one.speaker for one in train} - {UNKNOWN}
    verifies = Label.SPOOF not in labels
    if verifies and len(speakers) < 2:
        raise InputError(f"{folder / 'train.tsv'}: neither spoofed speech nor several speakers to learn from")
    few, many = sorted(labels.values())[0], max(labels.values())
    seconds = [one.seconds for one in train if not isnan(one.seconds)]
    steps = ceil(len(train) / BATCH)
    epochs = min(max(ceil(STEPS / steps), 4), 20)
    text = TEMPLATE.format(
        task="speaker-verification" if verifies else "anti-spoofing",
        backbone=_scalar(backbone),
        out=out,
        train=_scalar(folder / "train.tsv"),
        train_size=_describe(train),
        dev=_scalar(folder / "dev.tsv"),
        dev_size=_describe(dev),
        sets=_list_trials(folder) if verifies else _list_sets(folder),
        crop=3.0 if not seconds else max(1.0, min(4.0, round(median(seconds) * 2) / 2)),
        median=f"{median(seconds):.1f}" if seconds else "an unknown number of",
        workers=min(os.cpu_count() or 1, 8),
        balance="  balance: [class]    # an epoch has as many of each\n" * (not verifies and many > UNEVEN * few),
        objective=OBJECTIVE * verifies,
        epochs=epochs,
        steps=steps,
        batch=BATCH,
        growth=epochs // 2,
    )
    with atomic_write(out) as handle:
        handle.write(text)
    load_config(out)
    return out


def _scalar(text: object) -> str:
    """Return text as YAML has it, in quotation marks where it needs them."""
    return yaml.safe_dump(str(text), allow_unicode=True, width=10_000).splitlines()[0]


def _describe(utterances: list[Utterance]) -> str:
    """Return counts and hours of a manifest."""
    labels = Counter(one.label for one in utterances)
    speakers = len({one.speaker for one in utterances} - {UNKNOWN})
    seconds = sum(one.seconds for one in utterances)
    parts = [f"{labels[Label.BONAFIDE]:,} bona fide, {labels[Label.SPOOF]:,} spoofed"]
    parts += [f"{speakers:,} speakers"] * bool(speakers) + [f"{seconds / 3600:.1f} h"] * (not isnan(seconds))
    return ", ".join(parts)


def _list_sets(folder: Path) -> str:
    """Return the lines of `data.eval`: manifests of their own with spoofed speech."""
    lines = []
    for path in sorted(folder.glob("*.tsv")):
        if path.stem in ("train", "dev") or path.name.startswith(".") or path.name.endswith(".faults.tsv"):
            continue
        try:
            utterances = read_manifest(path)
        except InputError:  # another table
            continue
        if any(one.label == Label.SPOOF for one in utterances):
            lines.append(f"    {_scalar(path.stem)}: {_scalar(path)}    # {_describe(utterances)}\n")
    return "".join(["  eval:\n", *lines] if lines else [])


def _list_trials(folder: Path) -> str:
    """Return the lines of `data.eval` and `data.trials`: each list of trials, over the manifest of its name."""
    trials = {path.stem: path for path in sorted(folder.glob("*.trials"))}
    tables = {path.stem: path for path in folder.glob("*.tsv")}
    over = {name: max((stem for stem in tables if name.startswith(stem)), key=len, default="") for name in trials}
    eval_ = [f"    {_scalar(name)}: {_scalar(tables[of])}\n" for name, of in over.items() if of and name != "dev"]
    lists = [f"    {_scalar(name)}: {_scalar(trials[name])}\n" for name, of in over.items() if of]
    return "".join([*(["  eval:\n", *eval_] if eval_ else []), *(["  trials:\n", *lists] if lists else [])])
