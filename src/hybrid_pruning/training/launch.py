"""`train`: a recipe -> a run, or the runs of its stages, each of which goes on from the network of the one before."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from hybrid_pruning import distributed as processes
from hybrid_pruning.audio import SAMPLE_RATE_HZ
from hybrid_pruning.config import (
    TRAINED_FIRST,
    Config,
    DistillationConfig,
    by_name,
    expand_stages,
    listed,
    load_config,
    save_config,
)
from hybrid_pruning.console import say
from hybrid_pruning.data.manifest import Utterance
from hybrid_pruning.data.trainset import LABELS, TrainSet, class_counts, class_names, read_devset, read_trainset
from hybrid_pruning.errors import InputError
from hybrid_pruning.files import digest_file, hold, is_vacant, remove_leftovers, require_new_folder
from hybrid_pruning.models.artifact import is_artifact
from hybrid_pruning.models.heads import Classes
from hybrid_pruning.models.speech_model import SpeechModel, load_backbone
from hybrid_pruning.training.export import Trained, build_export, read_trained, shrink_model
from hybrid_pruning.training.losses import carry_over
from hybrid_pruning.training.objective import Teacher, build_objective
from hybrid_pruning.training.oneshot import cut_model
from hybrid_pruning.training.runs import Digest, Run
from hybrid_pruning.training.trainer import Trainer, find_device
from hybrid_pruning.training.validation import DevTrials, read_dev_trials
from hybrid_pruning.training.warnings import check_before


@dataclass(frozen=True, slots=True)
class Data:
    """The data of a training; `trials` are over `dev`, `classes` those of `train` in the order of their numbers."""

    train: list[Utterance]
    dev: list[Utterance]
    trials: DevTrials | None
    classes: tuple[str, ...]
    digests: dict[str, Digest]


def train(recipe: Config | str | Path, out: str | Path, overrides: Sequence[str] = (), resume: bool = False) -> Path:
    """Fine-tune a backbone with a head and, where the recipe says so, prune it at the same time.

    Under torchrun every process calls this, and the main one writes. Of a recipe with stages, each is a run of its own
    below the folder, trained one after another. A stage begins with what `export` would make of the one before: the
    mean of its last checkpoints, whole or, where it pruned, cut; speakers that both have keep their class weights.
    Its optimisers, schedules and steps are its own. A target sparsity that the units cannot reach is a PlanError.

    Args:
        recipe: a YAML file, or its configuration.
        out: folder for configuration, log and checkpoints.
        overrides: ``a.b=c`` settings that win over the file.
        resume: continue from the last checkpoint, in the stage that was cut off; those that are finished are skipped.

    Returns:
        The run's folder; nothing is written before recipe, data and model are checked.
    """
    processes.start()
    config = recipe if isinstance(recipe, Config) else load_config(recipe, overrides)
    whole, stages = Run(out), expand_stages(config)
    with ExitStack() as held:
        if processes.is_main():
            if resume and not whole.folder.exists():
                whole.check_recipe(config)
            held.enter_context(hold(whole.folder))
        resume = processes.from_main(lambda: _check_folder(whole, config, resume))
        if stages:
            _train_stages(config, stages, whole)
        else:
            _train_one(config, whole, resume)
    return whole.folder


def _check_folder(run: Run, config: Config, resume: bool) -> bool:
    """Refuse a folder that the training cannot go to, and return whether it has begun there."""
    if not resume or (run.folder.is_dir() and is_vacant(run.folder)):  # killed in its first write, it begins again
        require_new_folder(run.folder)
        remove_leftovers(run.folder)
        return False
    run.check_recipe(config)
    return True


def _train_stages(config: Config, stages: Mapping[str, Config], whole: Run) -> None:
    """Do the trainings of a recipe with stages that are not done yet, one after another."""
    runs = {name: Run(whole.folder / name) for name in stages}
    for place, (name, stage) in enumerate(stages.items()):  # the last stage's faults, before the first is trained
        processes.from_main(partial(read_data, stage, runs[name]))
        teacher = None if stage.distillation is None else stage.distillation.teacher
        before = list(stages)[:place]
        if teacher is not None and "/" not in teacher and teacher not in before and not Path(teacher).exists():
            known = ", ".join(before) or "none"
            raise InputError(
                f"stages.{name}.distillation.teacher {teacher}: no folder, and no stage before; known: {known}"
            )
    earlier: dict[str, Run] = {}
    for name, stage in stages.items():
        run, epochs = runs[name], stage.training.epochs
        finished = processes.from_main(run.trained_epochs) == epochs
        if processes.is_main():
            say(f"stage {name}: {'finished before' if finished else f'{epochs} epochs'}", style="bold")
        if not finished:
            begun = processes.from_main(partial(_check_folder, run, stage, run.config.exists()))
            _train_one(stage, run, begun, earlier, lambda: save_config(config, whole.config))
        earlier[name] = run


def _train_one(
    config: Config,
    run: Run,
    resume: bool,
    earlier: Mapping[str, Run] | None = None,
    before_writing: Callable[[], object] = lambda: None,
) -> None:
    """Do the training of a recipe without stages, from the network of the last of the earlier stages where there are.

    The main process calls `before_writing` once all is checked.
    """
    start = read_trained([*earlier.values()][-1]) if earlier else None
    pruning = config.pruning
    if start is None and pruning.use_pruning_loss and pruning.method in TRAINED_FIRST:
        problem = "reads a network that has learnt the task; train one in a stage before"
        raise InputError(f"pruning.method {pruning.method} {problem}")
    data = processes.from_main(lambda: read_data(config, run))
    cuts, begun = pruning.cuts_first, resume and processes.from_main(run.find_latest) is not None
    model = run.read_model() if cuts and begun else _build_model(config, data, start)
    classes = 0 if model.classes else len(data.classes)
    objective = build_objective(config, model, classes)
    if start is not None and objective.margin is not None:
        known = carry_over(objective.margin, start.weights, start.classes, data.classes)
        say(f"{known} of {len(data.classes)} speakers have their class weights from the stage before")
    if cuts and not begun:
        batches = TrainSet(data.train, config).batches(0)
        model, margin = cut_model(config, objective.to(find_device()), batches), objective.margin
        objective = build_objective(config, model, classes)
        if margin is not None and objective.margin is not None:
            objective.margin.load_state_dict(margin.state_dict())
    architecture = model.architecture()
    if config.distillation is not None:
        objective.teacher = read_teacher(config.distillation, earlier or {}, model)
    with closing(Trainer(config, objective, data.train, data.dev, run, data.trials)) as trainer:
        if not (resume and trainer.resume()):
            processes.from_main(before_writing)
            processes.from_main(lambda: run.write(config, architecture, data.digests))
            steps = trainer.total_steps
            trainer.start_log(processes.from_main(lambda: check_before(config, model, steps, data.train, data.dev)))
        trainer.fit()


def read_data(config: Config, run: Run) -> Data:
    """Read the manifests and trials of a training; refuse those that it cannot learn from or was not begun with."""
    train, dev = read_trainset(config), read_devset(config)
    trials = None
    if config.task == "speaker-verification":
        trials = read_dev_trials(config.data.trials["dev"], dev, listed(config.data.dev))
    classes, top_k = class_names(config, train), config.objective.inter_top_k
    if top_k >= len(classes):
        raise InputError(
            f"objective.inter_top_k {top_k}: {listed(config.data.train)} has {len(classes)} speakers, and so at most "
            f"{len(classes) - 1} others to penalise"
        )
    data = Data(train, dev, trials, classes, digest_data(config, train, dev, trials))
    run.check_data(data.digests)
    return data


def digest_data(
    config: Config, train: Sequence[Utterance], dev: Sequence[Utterance], trials: DevTrials | None = None
) -> dict[str, Digest]:
    """Return the digest of whatever decides the training in each file and folder, by its key in the recipe.

    Of an utterance that is its id, audio path, label, speaker and recording; of a trial its two sides and its class; of
    a folder to augment with the names of its files; and the order. The other columns decide nothing.
    """
    found = {}
    for key, files, utterances in (("data.train", config.data.train, train), ("data.dev", config.data.dev, dev)):
        for name, path in by_name(files).items():
            folder = f"{path.parent}/"  # a corpus may move together with its manifests
            own = (u for u in utterances if u.corpus == name or not name)
            rows = ((u.utt_id, str(u.path).removeprefix(folder), u.label, u.speaker, u.recording) for u in own)
            found[f"{key}.{name}" if name else key] = Digest.of(path, map("\t".join, rows))
    if trials is not None:
        lines = map("\t".join, zip(trials.enrol, trials.test, trials.classes, strict=True))
        found["data.trials.dev"] = Digest.of(listed(config.data.trials["dev"]), lines)
    for kind, section in config.augment:
        if source := getattr(section, "folder", None):
            names = sorted(str(path.relative_to(source)) for path in source.rglob("*"))
            found[f"augment.{kind}.folder"] = Digest.of(source, names)
    if config.distillation is not None and is_artifact(config.distillation.teacher):
        teacher = Path(config.distillation.teacher)
        found["distillation.teacher"] = Digest.of(teacher, map(digest_file, sorted(teacher.glob("*.safetensors"))))
    return found


def read_teacher(asked: DistillationConfig, stages: Mapping[str, Run], student: SpeechModel) -> Teacher:
    """Return the teacher that a recipe names: an earlier stage, a run, an artifact, or a hub id.

    Without a loss on outputs it may be an encoder alone, as the pretrained one.
    """
    name = asked.teacher
    if name in stages:
        trained = read_trained(stages[name])
        model: nn.Module = shrink_model(trained.objective, trained.sparsity)
    elif Run(name).config.exists():
        model = build_export(name)
    elif asked.output == 0 and not Path(name).is_file():
        model = load_backbone(name)
    else:
        model = SpeechModel.from_pretrained(name)
    backbone = getattr(model, "backbone", model)
    known = ("width", "hidden width"), ("depth", "hidden states")
    for attribute, words in known:
        here, there = getattr(student.backbone, attribute), getattr(backbone, attribute)
        if here != there:
            raise InputError(f"distillation.teacher {name}: {words}: it has {there}, the model has {here}")
    if asked.layers is not None and max(asked.layers) >= student.backbone.depth:
        last = student.backbone.depth - 1
        raise InputError(f"distillation.layers {max(asked.layers)}: the last hidden state is {last}; 0 is the input")
    if asked.output and isinstance(model, SpeechModel):
        if model.task != student.task:
            raise InputError(f"distillation.teacher {name}: is for {model.task}, the recipe for {student.task}")
        if model.task == "speaker-verification" and model.embedding_width != student.embedding_width:
            widths = f"embeddings of {model.embedding_width}, the model has {student.embedding_width}"
            raise InputError(f"distillation.teacher {name}: has {widths}; set head.embedding, or distillation.output=0")
    return Teacher(model, asked)


def _build_model(config: Config, data: Data, start: Trained | None) -> SpeechModel:
    """Return the recipe's backbone with a fresh head, or the network of an earlier training, free of its masks."""
    given, fresh = None, config.pruning.cuts_first and config.pruning.method == "small"
    if start is not None and not fresh:
        small = shrink_model(start.objective, start.sparsity)
        given = SpeechModel.from_architecture(small.architecture())
        given.load_state_dict(small.state_dict())
    torch.manual_seed(config.seed)  # fresh weights
    source = config.backbone
    backbone = (
        load_backbone(source.source, source.random or fresh, source.revision) if given is None else given.backbone
    )
    shortest = backbone.minimum_samples / SAMPLE_RATE_HZ
    if config.data.crop_seconds < shortest:
        crop = f"data.crop_seconds {config.data.crop_seconds:g}"
        raise InputError(f"{crop}: expected {shortest:g} seconds (one frame) or more")
    classes = Classes(LABELS, class_counts(config, data.train)) if config.task == "anti-spoofing" else None
    model = SpeechModel.build(backbone, config.head, classes)
    if given is not None:
        model.load_state_dict(given.state_dict())
    return model
