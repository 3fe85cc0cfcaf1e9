"""A backbone, a head, and for classification a classifier: trained, saved as an artifact, and read back."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn

from hybrid_pruning.config import HeadConfig
from hybrid_pruning.errors import InputError, in_one_line
from hybrid_pruning.files import at_revision
from hybrid_pruning.models import artifact, foreign, hub
from hybrid_pruning.models.backbone import Backbone, load_transformers, skeleton
from hybrid_pruning.models.calibration import Calibration, read_calibration
from hybrid_pruning.models.cohort import Cohort, read_cohort
from hybrid_pruning.models.heads import Classes, Classifier, Head, build_head, log_likelihood_ratio
from hybrid_pruning.pruning import narrow, plan_for, shape_of
from hybrid_pruning.tasks import TaskName

FloatArray = np.ndarray[Any, np.dtype[np.float32]]
IntArray = np.ndarray[Any, np.dtype[np.int64]]
BACKBONE = "backbone."
"""Prefix of the names of an encoder's weights."""
BACKBONE_ALONE = "none"
"""The task of an artifact that has no head."""
MOST_UNITS = 1 << 20
"""In one slot, by far: a damaged description must not fill the memory."""


class SpeechModel(nn.Module):
    """A detector of spoofed speech or, without classes, an extractor of speaker embeddings.

    Its provenance is free-form: recipe, data, results. Only speaker verification has a cohort. `minimum_samples` is the
    shortest waveform it takes, at 16 kHz, and `embedding_width` is E.
    """

    def __init__(
        self,
        backbone: Backbone,
        head: Head,
        classes: Classes | None,
        head_config: HeadConfig,
        provenance: Mapping[str, Any] | None = None,
        calibration: Calibration | None = None,
        cohort: Cohort | None = None,
    ) -> None:
        super().__init__()
        self.backbone, self.head, self.classes = backbone, head, classes
        self.classifier: nn.Module = nn.Identity()
        if classes is not None:
            self.classifier = Classifier(head.embedding_width, len(classes.labels), head_config.classifier_norm)
        self.head_config, self.provenance = head_config, dict(provenance or {})
        self.calibration, self.cohort = calibration, cohort
        self.task: TaskName = "speaker-verification" if classes is None else "anti-spoofing"
        self.minimum_samples, self.embedding_width = backbone.minimum_samples, head.embedding_width

    def forward(self, wave: Any, lengths: Any = None) -> torch.Tensor:
        """Return the logits [B, classes] of wave [B, S] with lengths [B]; for speaker verification the embeddings."""
        return self.classifier(self.embed(wave, lengths))

    def embed(self, wave: Any, lengths: Any = None) -> torch.Tensor:
        """Return the embedding [B, E] of each utterance of wave [B, S] with lengths [B], as `Backbone` takes them."""
        return self.head(self.backbone(wave, lengths))

    def score(self, wave: Any, lengths: Any = None) -> torch.Tensor:
        """Return the log-likelihood ratio [B] of bona fide against spoofed speech, calibrated where the model is."""
        return self.classify(self.embed(wave, lengths))

    def classify(self, embedding: torch.Tensor) -> torch.Tensor:
        """Return the score of each embedding [B, E], as `score` gives it: [B]."""
        if self.classes is None:
            raise InputError(
                "this model is for speaker verification: one recording has no score; compare embeddings, see `verify`"
            )
        score = log_likelihood_ratio(self.classifier(embedding), self.classes)
        return score if self.calibration is None else self.calibration.apply(score)

    @property
    def device(self) -> torch.device:
        """The device of its weights."""
        return next(self.parameters()).device

    @property
    def device_type(self) -> str:
        """The kind of its device: cpu, cuda or mps."""
        return self.device.type

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Be in evaluation mode within the block, then in the mode it was in."""
        training = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(training)

    @torch.inference_mode()
    def embed_arrays(self, wave: FloatArray, lengths: IntArray | None = None) -> FloatArray:
        """Return the embeddings [B, E] of wave [B, S] at 16 kHz with lengths [B], or None where all have S."""
        return self.embed(wave, lengths).float().cpu().numpy()

    @torch.inference_mode()
    def classify_arrays(self, embeddings: FloatArray) -> FloatArray:
        """Return the score [B] of each embedding [B, E]."""
        return self.classify(torch.tensor(embeddings, device=self.device)).float().cpu().numpy()

    def weights(self) -> Iterator[tuple[str, Any]]:
        """Yield the name and the bytes of each tensor."""
        for name, tensor in self.state_dict().items():
            yield name, tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()

    @classmethod
    def build(cls, backbone: Backbone, head: HeadConfig, classes: Classes | None, **about: Any) -> Self:
        """Return a model with a fresh head and, where there are classes, a fresh classifier on a backbone."""
        return cls(backbone, build_head(head, backbone.depth, backbone.width), classes, head, **about)

    def architecture(self) -> dict[str, Any]:
        """Return plain values from which `from_architecture` builds the model again."""
        classes = {} if self.classes is None else self.classes.to_json()
        head, backbone = self.head_config.model_dump(), describe_backbone(self.backbone)
        return {"task": self.task, **classes, "head": head, "backbone": backbone}

    @classmethod
    def from_architecture(cls, about: Mapping[str, Any], provenance: Mapping[str, Any] | None = None) -> Self:
        """Return a model of the given architecture with fresh weights: the dense skeleton, cut to its shape."""
        backbone = build_backbone(about["backbone"])
        classes = None if about["task"] == "speaker-verification" else Classes.from_json(about)
        return cls.build(backbone, HeadConfig(**about["head"]), classes, provenance=provenance)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the artifact: config.json, model.safetensors and, where it has a cohort, cohort.safetensors."""
        about = {**self.architecture(), "provenance": self.provenance}
        if self.calibration is not None:
            about["calibration"] = self.calibration.to_json()
        if self.cohort is not None:
            about["cohort"] = self.cohort.to_json()
            artifact.forget_cohort(Path(folder))
            self.cohort.write(Path(folder))
        artifact.write_artifact(Path(folder), about, self.state_dict())

    def push_to_hub(
        self,
        repo_id: str,
        card: str | None = None,
        private: bool | None = None,
        message: str = hub.MESSAGE,
        token: str | None = None,
    ) -> str:
        """Publish the model as `hub.upload` does, and return the repository's address.

        `card` is the text of the model card, by default one without figures.
        """
        from hybrid_pruning.models.card import render_card

        hub.check_repo_id(repo_id)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            (Path(folder) / hub.CARD).write_text(card or render_card(self, repo_id), encoding="utf-8")
            return hub.upload(folder, repo_id, None, private, message, token)

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, revision: str | None = None) -> Self:
        """Read an artifact, or a model of the public recipe (also its file), from a folder or the hub, to evaluate.

        The revision is a branch, tag or commit of a hub id, and may also stand behind it: ``me/detector@v1``.
        """
        folder = foreign.locate_model(at_revision(name_or_path, revision))
        if (file := foreign.find_model(folder) or foreign.find_backbone(folder)) is not None:
            return cls.from_recipe(foreign.read_checkpoint(file))
        config = artifact.read_config(folder)
        if config.get("task") == BACKBONE_ALONE:
            raise InputError(
                f"{folder}: is an encoder alone, without head; train on it: --set backbone.source={folder}"
            )
        with understanding(folder):
            model = cls.from_architecture(config, config.get("provenance", {}))
        model.calibration = read_calibration(config, folder / artifact.CONFIG)
        model.cohort = read_cohort(folder, config, model.embedding_width)
        _read_weights(model, folder, config)
        model.backbone.pack()
        return model.eval()

    @classmethod
    def from_recipe(cls, checkpoint: foreign.Checkpoint, as_trained: bool = False) -> Self:
        """Return a whole model of the public recipe, in evaluation mode; `as_trained` as for `build_backbone`."""
        backbone, head, weights, provenance = foreign.read_model(checkpoint, as_trained)
        classes = Classes(foreign.LABELS, (1,) * len(foreign.LABELS))  # their training counts are not known
        model = cls.build(backbone, head, classes, provenance=provenance)
        model.load_state_dict({**model.state_dict(), **weights}, strict=True)
        model.backbone.pack()
        return model.eval()


def load_backbone(name_or_path: str | Path, random: bool = False, revision: str | None = None) -> Backbone:
    """Load an SSL encoder, in evaluation mode; ``backbone(wave, lengths)`` gives all hidden states.

    Args:
        name_or_path: a hub id (``microsoft/wavlm-base``), a local transformers folder, one of our artifacts, or a file
            of WeDefense, DPHuBERT or DiariZen (.bin, .pt, .pth), or its folder.
        random: take the architecture alone, with fresh weights.
        revision: a branch, tag or commit of a hub id, which may also stand behind it: ``microsoft/wavlm-base@main``.
    """
    name_or_path = at_revision(name_or_path, revision)
    if not artifact.is_artifact(name_or_path):
        if (file := foreign.find_backbone(Path(name_or_path))) is not None:
            return foreign.build_backbone(foreign.read_checkpoint(file)).eval()
        return load_transformers(name_or_path, random).eval()
    folder = Path(name_or_path)
    config = artifact.read_config(folder)
    if config.get("task") != BACKBONE_ALONE:
        return SpeechModel.from_pretrained(folder).backbone
    with understanding(folder):
        backbone = build_backbone(config["backbone"])
    _read_weights(backbone, folder, config, BACKBONE)
    return backbone.eval()


def save_backbone(backbone: Backbone, folder: str | Path, provenance: Mapping[str, Any]) -> None:
    """Write an encoder alone as an artifact, which `load_backbone` and `backbone.source` in a recipe take."""
    about = {"task": BACKBONE_ALONE, "backbone": describe_backbone(backbone), "provenance": dict(provenance)}
    weights = {f"{BACKBONE}{name}": tensor for name, tensor in backbone.state_dict().items()}
    artifact.write_artifact(Path(folder), about, weights)


def describe_backbone(backbone: Backbone) -> dict[str, Any]:
    """Return plain values from which `build_backbone` builds a backbone again."""
    shape = shape_of(backbone)
    return {
        "config": backbone.config.to_diff_dict(),
        "normalize": backbone.normalize,
        "origin": backbone.origin,
        "units": None if shape is None else list(shape.units),
        "kept": None if shape is None else {name: _to_ranges(kept) for name, kept in shape.kept.items()},
    }


def build_backbone(about: Mapping[str, Any]) -> Backbone:
    """Return a backbone of the given description with fresh weights: the dense skeleton, cut to its shape."""
    backbone = skeleton(about["config"], bool(about["normalize"]))
    backbone.origin = dict(about.get("origin", {}))
    if about["kept"] is not None:
        kept = {name: _from_ranges(ranges) for name, ranges in about["kept"].items()}
        narrow(backbone, plan_for(backbone).only(about["units"]), kept)
    return backbone


@contextmanager
def understanding(folder: Path) -> Iterator[None]:
    """Turn an error of building a model from a nonsensical description into the user's error."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{folder / artifact.CONFIG}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, StrictDataclassError) as error:
        problem = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"{folder / artifact.CONFIG}: cannot be understood ({problem})") from error


def _read_weights(module: nn.Module, folder: Path, config: Mapping[str, Any], prefix: str = "") -> None:
    """Load an artifact's weights into a module, whose names it may have behind a prefix."""
    weights = {name.removeprefix(prefix): tensor for name, tensor in artifact.read_weights(folder, config).items()}
    load_strictly(module, weights, f"{folder}: {artifact.CONFIG} and {artifact.WEIGHTS}")


def load_strictly(module: nn.Module, weights: Mapping[str, Any], files: str) -> None:
    """Load weights; those of another module are the user's error, which names the two files."""
    try:
        module.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise InputError(f"{files} do not belong together: {in_one_line(error)}") from error


def _to_ranges(kept: tuple[int, ...]) -> str:
    """(0, 1, 2, 5) -> '0-2,5', for config.json."""
    units = set(kept)
    firsts, lasts = ([unit for unit in kept if unit + step not in units] for step in (-1, 1))
    return ",".join(
        str(first) if first == last else f"{first}-{last}" for first, last in zip(firsts, lasts, strict=True)
    )


def _from_ranges(text: str) -> tuple[int, ...]:
    runs = [run.partition("-") for run in text.split(",") if run]
    ranges = [range(int(first), int(last or first) + 1) for first, _, last in runs]
    if any(len(units) > MOST_UNITS for units in ranges):
        raise ValueError(f"kept units {text[:40]}: no slot has more than {MOST_UNITS}")
    return tuple(unit for units in ranges for unit in units)
