"""The rules of a recipe: values that do not go together, in one training and from stage to stage."""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from operator import attrgetter

from hybrid_pruning.config.sections import Config, Section, by_name, listed
from hybrid_pruning.errors import InputError

MOST_SECONDS, MOST_WEIGHTS = 100_000, 2**30  # of audio in a batch, and of a head's largest layer: some gigabytes
COSINES = ("am", "aam", "sphereface2")  # kinds of objective that have class weights as directions
CARRIED = ("head", "backbone.source", "backbone.revision", "backbone.random")  # of the network, as in the first stage
RESERVED = ("checkpoints", "evaluation", "tensorboard")  # folders that a run has of its own


def check_order(stages: Mapping[str, Config], name: str) -> None:
    """Require that each stage can go on with the network that the one before leaves."""
    pruned = ""
    for stage, config in stages.items():
        if stage in RESERVED:
            raise InputError(f"{name}: stages: '{stage}' is a folder that every run has; give the stage another name")
        for key in CARRIED:
            if attrgetter(key)(config) != attrgetter(key)(next(iter(stages.values()))):
                raise InputError(f"{name}: stages.{stage}.{key} differs from the first stage's; the network goes on")
        if pruned and config.pruning.use_pruning_loss:
            raise InputError(
                f"{name}: stages.{stage}.pruning.use_pruning_loss is on and stage '{pruned}' has pruned already; "
                "turn it off for every stage after that, which trains the small model"
            )
        pruned = stage if config.pruning.use_pruning_loss else pruned


def find_faults(config: Config) -> Iterator[str]:  # noqa: PLR0912, PLR0915  a list of rules, two lines each
    """Yield the values of one training that do not go together, in terms of their keys.

    No validators of the sections: of a recipe with stages only its stages are trainings, and need to be whole.
    """
    training, data, head, pruning = config.training, config.data, config.head, config.pruning
    objective, asked, spoofing = config.objective, config.distillation, config.task == "anti-spoofing"
    seconds, weights = training.batch_size * data.crop_seconds, head.heads * head.compression * head.embedding
    size, exact = f"training.batch_size {training.batch_size}", pruning.constraint_solver == "exact"
    low, high, points, balance = pruning.min_sparsity, pruning.target_sparsity, pruning.export_at, data.balance
    if training.batch_size % training.accumulate:
        yield f"{size} is no multiple of training.accumulate {training.accumulate}"
    if seconds > MOST_SECONDS:
        long = f"data.crop_seconds {data.crop_seconds:g} is {seconds:g} seconds a batch"
        yield f"{size} x {long}; expected at most {MOST_SECONDS}"
    if weights > MOST_WEIGHTS:
        yield f"head: heads x compression x embedding are {weights} weights; expected at most {MOST_WEIGHTS}"
    if low > high:
        yield f"pruning.min_sparsity {low} is above pruning.target_sparsity {high}"
    if any(early >= late for early, late in pairwise((low, *points))) or max(points, default=high) > high:
        bounds = f"above pruning.min_sparsity {low}, up to pruning.target_sparsity {high}"
        yield f"pruning.export_at {list(points)}: expected rising values {bounds}"
    if pruning.export_hold_epochs and not points:
        hold = f"pruning.export_hold_epochs {pruning.export_hold_epochs:g}"
        yield f"{hold}: there is nothing to hold at; give pruning.export_at, or leave it out"
    if config.backbone.frozen and pruning.use_pruning_loss:
        yield "backbone.frozen and pruning.use_pruning_loss are both on; pruning trains the backbone, turn one off"
    if training.clip_gates and training.clip_norm is None:
        yield "training.clip_gates goes with training.clip_norm, which is null; give a norm, or turn it off"
    if config.backbone.frozen_dropout and not config.backbone.frozen:
        yield "backbone.frozen_dropout goes with backbone.frozen; an encoder that learns has its dropout anyway"
    if head.classifier_norm == "batch" and training.batch_size <= training.accumulate:
        one = f"{size} / training.accumulate {training.accumulate} is one utterance"
        yield f"{one}, of which head.classifier_norm batch has no statistics; take more"
    if asked is not None and not asked.hidden and not asked.output:
        yield "distillation.hidden and distillation.output are both 0; give one a weight, or leave it out"
    if asked is not None and config.backbone.frozen and asked.hidden > 0:
        yield "backbone.frozen: hidden states do not change; set distillation.hidden=0, or turn it off"
    if pruning.cuts_first and points:
        yield f"pruning.method {pruning.method} cuts before the first step and leaves no snapshots; drop export_at"
    if "dev" in data.eval:
        yield "data.eval.dev has the name of the set of data.dev; give it another one"
    if not exact and is_changed(pruning, "freeze_epochs"):
        yield "pruning.freeze_epochs goes with pruning.constraint_solver exact, whose choice of units it freezes"
    if exact and (pruning.start_noise > 0 or training.clip_gates):
        sampled = "pruning.start_noise and training.clip_gates are of sampled gates"
        yield f"{sampled}; pruning.constraint_solver exact has none"
    for key in ("sampling", "speed_speakers"):
        if spoofing and is_changed(data, key):
            yield f"data.{key} is for task: speaker-verification, whose classes are speakers"
    if not balance and data.temperature is not None:
        yield "data.temperature goes with data.balance, which is empty; name corpus, class or both there"
    if len(set(balance)) < len(balance):
        yield f"data.balance {', '.join(balance)}: name each once, the one within the other behind it"
    if "class" in balance and data.sampling == "speakers":
        yield "data.balance: class and data.sampling: speakers both share out over speakers; leave one out"
    for key, files in {"train": by_name(data.train), "dev": by_name(data.dev)}.items():
        if len(set(files.values())) < len(files):
            yield f"data.{key}: {listed(files)}: one manifest stands under two names; a corpus counts once"
    for name in data.eval:
        if isinstance(data.trials.get(name), dict):
            yield f"data.trials.{name}: expected one file, as data.eval.{name} is one set"
    if spoofing and objective.kind != "softmax":
        yield f"objective.kind {objective.kind} is for task: speaker-verification; anti-spoofing has softmax alone"
    if spoofing and is_changed(objective, "class_weights"):
        yield "objective.class_weights are of task: speaker-verification; anti-spoofing has its model's classifier"
    margins = ("sub_centres", "margin_start_epochs", "margin_warmup_epochs", "margin_growth")
    for key, kinds in (("inter_top_k", COSINES[:2]), *((key, COSINES) for key in margins)):
        if objective.kind not in kinds and is_changed(objective, key):
            yield f"objective.{key} goes with objective.kind {' or '.join(kinds)}, not {objective.kind}"
    if not spoofing and "dev" not in data.trials:
        yield "data.trials.dev is missing; speaker verification is validated on trials over data.dev: give their file"
    if by_name(data.trials.get("dev", data.dev)).keys() != by_name(data.dev).keys():
        yield f"data.trials.dev: expected {', '.join(by_name(data.dev)) or 'one file'}, as data.dev has"


def is_changed(section: Section, key: str) -> bool:
    """Return whether an option has another value than its default."""
    return bool(getattr(section, key) != type(section).model_fields[key].default)
