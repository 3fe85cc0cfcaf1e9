"""`train`: a recipe -> a run, or the runs of its stages, each of which goes on from the network of the one before."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from hybrid_pruning import distributed as processes
from hybrid_pruning.audio import SAMPLE_RATE_HZ
from hybrid_pruning.config import Config, expand_stages, save_config
from hybrid_pruning.console import say
from hybrid_pruning.data.manifest import Utterance
from hybrid_pruning.data.trainset import LABELS, class_names, read_set, read_trainset
from hybrid_pruning.errors import InputError
from hybrid_pruning.files import hold, is_vacant, remove_leftovers, require_new_folder
from hybrid_pruning.models.classifier import Classes
from hybrid_pruning.models.speech_model import SpeechModel, load_backbone
from hybrid_pruning.training.checkpoints import trained_epochs
from hybrid_pruning.training.export import read_trained, shrink_model
from hybrid_pruning.training.losses import carry_over
from hybrid_pruning.training.objective import build_objective
from hybrid_pruning.training.runs import CONFIG, Digest, check_data, check_run, write_run
from hybrid_pruning.training.trainer import Trainer
from hybrid_pruning.training.validation import DevTrials, read_dev_trials
from hybrid_pruning.training.warnings import check_before


@dataclass(frozen=True, slots=True)
class Start:
    """What a training begins with instead of a pretrained backbone: the network that another one came to.

    Args:
        model: that network, whole or cut.
        classes: the speakers of its training data, in the order of their weights; none for anti-spoofing.
        weights: the state of its loss on embeddings.
    """

    model: SpeechModel
    classes: Sequence[str]
    weights: Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Data:
    """What a training learns from and is judged on.

    Args:
        train: utterances to learn from.
        dev: utterances to validate on.
        trials: over these, for speaker verification.
        classes: the names of the classes of `train`, in the order of their numbers.
    """

    train: list[Utterance]
    dev: list[Utterance]
    trials: DevTrials | None
    classes: tuple[str, ...]

    def digests(self, config: Config) -> dict[str, Digest]:
        """Return what decides the training in each file and folder, by its key in the recipe.

        Of an utterance that is its id, audio path, label, speaker and recording; of a trial its two sides and its
        class; of a folder to augment with the names of its files; and the order. The other columns decide nothing.
        """
        found = {}
        for key, path, utterances in (
            ("data.train", config.data.train, self.train),
            ("data.dev", config.data.dev, self.dev),
        ):
            folder = f"{path.parent}/"  # a corpus may move together with its manifests
            columns = (
                (u.utt_id, str(u.path).removeprefix(folder), u.label, u.speaker, u.recording) for u in utterances
            )
            found[key] = _digest(path, map("\t".join, columns))
        if self.trials is not None:
            rows = zip(self.trials.enrol, self.trials.test, self.trials.classes, strict=True)
            found["data.trials.dev"] = _digest(config.data.trials["dev"], map("\t".join, rows))
        for kind, section in config.augment:
            if source := getattr(section, "folder", None):
                names = sorted(str(path.relative_to(source)) for path in source.rglob("*"))
                found[f"augment.{kind}.folder"] = _digest(source, names)
        return found


def _digest(path: Path, rows: Iterable[str]) -> Digest:
    lines = list(rows)
    content = "\n".join(lines).encode(errors="surrogateescape")
    return Digest(path, len(lines), hashlib.sha256(content).hexdigest())


def train(config: Config, run: str | Path, resume: bool = False) -> Path:
    """Fine-tune a backbone with a head and, where the recipe says so, prune it at the same time.

    Under torchrun every process calls this, and the main one writes. Of a recipe with stages, each is a run of its own
    below the folder, trained one after another. A stage begins with what `export` would make of the one before: the
    mean of its last two checkpoints, whole or, where it pruned, cut; speakers that both have keep their class weights.
    Its optimisers, schedules and steps are its own.

    Args:
        config: the recipe.
        run: folder for configuration, log and checkpoints.
        resume: continue from the last checkpoint, in the stage that was cut off; those that are finished are skipped.

    Raises:
        InputError: data, folder or configuration that cannot be used; nothing is written before all are checked.
        PlanError: a target sparsity that the chosen units cannot reach.
    """
    processes.start()
    run, stages = Path(run), expand_stages(config)
    with ExitStack() as held:
        if processes.is_main():
            if resume and not run.exists():
                check_run(run, config)
            held.enter_context(hold(run))
        resume = processes.from_main(lambda: _check_folder(run, config, resume))
        if stages:
            _train_stages(config, stages, run)
        else:
            _train_one(config, run, resume)
    return run


def _check_folder(run: Path, config: Config, resume: bool) -> bool:
    """Refuse a folder that the training cannot go to, and return whether it has begun there."""
    if not resume or (run.is_dir() and is_vacant(run)):  # killed in its first write, it begins again
        require_new_folder(run)
        remove_leftovers(run)
        return False
    check_run(run, config)
    return True


def _train_stages(config: Config, stages: Mapping[str, Config], run: Path) -> None:
    """Do the trainings of a recipe with stages, one after another."""
    for name, stage in stages.items():  # what is wrong with the last stage's data is said before the first is trained
        processes.from_main(partial(_check_data, stage, run / name))
    before: Path | None = None
    for name, stage in stages.items():
        _train_stage(name, stage, run / name, before, lambda: save_config(config, run / CONFIG))
        before = run / name


def _check_data(config: Config, run: Path) -> None:
    """Raise InputError where a training cannot use its data, or cannot go on with them."""
    check_data(run, read_data(config).digests(config))


def _train_stage(name: str, config: Config, run: Path, before: Path | None, announce: Callable[[], object]) -> None:
    """Do a stage that is not done yet, from the network that the one before came to."""
    done = processes.from_main(lambda: trained_epochs(run))
    if processes.is_main():
        state = "finished before" if done == config.training.epochs else f"{config.training.epochs} epochs"
        say(f"stage {name}: {state}", style="bold")
    if done == config.training.epochs:
        return
    there = processes.from_main(lambda: _check_folder(run, config, (run / CONFIG).exists()))
    _train_one(config, run, there, None if before is None else _read_start(before), announce)


def _read_start(run: Path) -> Start:
    """Return the network a finished run came to, fresh of everything that its own training put on it."""
    trained = read_trained(run)
    small = shrink_model(trained.objective, trained.point)
    model = SpeechModel.from_architecture(small.architecture())
    model.load_state_dict(small.state_dict())
    return Start(model, trained.classes, trained.weights)


def _train_one(
    config: Config,
    run: Path,
    resume: bool,
    start: Start | None = None,
    announce: Callable[[], object] = lambda: None,
) -> None:
    """Do one training.

    Args:
        config: its recipe, without stages.
        run: its folder.
        resume: continue from its last checkpoint.
        start: the network to begin with; by default the recipe's backbone with a fresh head.
        announce: called by the main process once all is checked, before anything is written.
    """
    data = processes.from_main(lambda: read_data(config))
    digests = processes.from_main(lambda: data.digests(config))
    processes.from_main(lambda: check_data(run, digests))
    model = _build_model(config, data, start)
    architecture = model.architecture()
    objective = build_objective(config, model, 0 if model.classes else len(data.classes))
    if start is not None and objective.margin is not None:
        known = carry_over(objective.margin, start.weights, start.classes, data.classes)
        say(f"{known} of {len(data.classes)} speakers have their class weights from the stage before")
    trainer = Trainer(config, objective, data.train, data.dev, run, data.trials)
    try:
        if not (resume and trainer.resume()):
            processes.from_main(announce)
            processes.from_main(lambda: write_run(run, config, architecture, digests))
            trainer.start_log(
                processes.from_main(lambda: check_before(config, model, trainer.total_steps, data.train, data.dev))
            )
        trainer.fit()
    finally:
        trainer.close()


def read_data(config: Config) -> Data:
    """Read what a training needs.

    Raises:
        InputError: a manifest or list of trials that cannot be used, or that the task cannot be learnt from.
    """
    trainset, devset = read_trainset(config), read_set(config.data.dev, config.task)
    trials = None
    if config.task == "speaker-verification":
        trials = read_dev_trials(config.data.trials["dev"], devset, config.data.dev)
    classes, top_k = class_names(config, trainset), config.objective.inter_top_k
    if top_k >= len(classes):
        raise InputError(
            f"objective.inter_top_k {top_k}: {config.data.train} has {len(classes)} speakers, and so at most "
            f"{len(classes) - 1} others to penalise"
        )
    return Data(trainset, devset, trials, classes)


def _build_model(config: Config, data: Data, start: Start | None) -> SpeechModel:
    torch.manual_seed(config.seed)  # fresh weights
    source = config.backbone
    backbone = load_backbone(source.source, source.random, source.revision) if start is None else start.model.backbone
    shortest = backbone.minimum_samples / SAMPLE_RATE_HZ
    if config.data.crop_seconds < shortest:
        raise InputError(
            f"data.crop_seconds {config.data.crop_seconds:g}: expected {shortest:g} seconds (one frame) or more"
        )
    classes = None
    if config.task == "anti-spoofing":
        counts = Counter(utterance.label for utterance in data.train)
        classes = Classes(LABELS, tuple(counts[label] for label in LABELS))
    model = SpeechModel.build(backbone, config.head, classes)
    if start is not None:
        model.load_state_dict(start.model.state_dict())
    return model
