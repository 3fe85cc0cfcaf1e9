"""The paper's figure: a backbone, a head, and for classification a classifier; saved as an artifact and read back."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import nn

from hybrid_pruning.config import HeadConfig
from hybrid_pruning.errors import InputError
from hybrid_pruning.files import at_revision
from hybrid_pruning.models import artifact, foreign, hub
from hybrid_pruning.models.backbone import Backbone, load_transformers
from hybrid_pruning.models.calibration import Calibration
from hybrid_pruning.models.classifier import Classes, Classifier, log_likelihood_ratio
from hybrid_pruning.models.cohort import Cohort
from hybrid_pruning.models.description import (
    BACKBONE,
    BACKBONE_ALONE,
    build_backbone,
    describe_backbone,
    fitting,
    understanding,
)
from hybrid_pruning.models.heads import Head, build_head
from hybrid_pruning.tasks import TaskName

FloatArray = np.ndarray[Any, np.dtype[np.float32]]
IntArray = np.ndarray[Any, np.dtype[np.int64]]


class SpeechModel(nn.Module):
    """A detector of spoofed speech or, without classes, a speaker's voice as an embedding.

    Args:
        backbone: wave -> hidden states.
        head: hidden states -> embedding.
        classes: what its classifier tells apart; None for speaker verification, where embeddings are compared.
        head_config: what the head was built from.
        provenance: how it came about: recipe, data, results; free-form, kept in the artifact.
        calibration: what makes its scores log-likelihood ratios on data like that it was fitted on; none by default.
        cohort: for speaker verification, what its embeddings are centred with and its scores normalised against.
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

    @property
    def task(self) -> TaskName:
        """What it was trained for."""
        return "speaker-verification" if self.classes is None else "anti-spoofing"

    def forward(self, wave: Any, lengths: Any = None) -> torch.Tensor:
        """Return the logits [B, classes] of wave [B, S] with lengths [B]; for speaker verification the embeddings."""
        return self.classifier(self.embed(wave, lengths))

    def embed(self, wave: Any, lengths: Any = None) -> torch.Tensor:
        """Return the embedding of each utterance.

        Args:
            wave: [B, S] at 16 kHz, or [S] for a batch of one, as `Backbone` takes it: floats, or 16 or 32-bit integers.
            lengths: [B] samples of each utterance, or None where all have S.

        Returns:
            [B, E].

        Raises:
            InputError: it is given anything else.
        """
        return self.head(self.backbone(wave, lengths))

    def score(self, wave: Any, lengths: Any = None) -> torch.Tensor:
        """Return the log-likelihood ratio of bona fide against spoofed speech; higher is more bona fide.

        Args:
            wave: [B, S] at 16 kHz, or [S] for a batch of one, as `Backbone` takes it: floats, or 16 or 32-bit integers.
            lengths: [B] samples of each utterance, or None where all have S.

        Returns:
            [B], the difference of the logits freed from the training priors, calibrated where the model is.

        Raises:
            InputError: the model is one for speaker verification, or it is given anything else.
        """
        return self.classify(self.embed(wave, lengths))

    def require_classes(self) -> Classes:
        """Return what its classifier tells apart.

        Raises:
            InputError: the model is one for speaker verification.
        """
        if self.classes is None:
            raise InputError(
                "this model is for speaker verification: one recording has no score; compare embeddings, see `verify`"
            )
        return self.classes

    def classify(self, embedding: torch.Tensor) -> torch.Tensor:
        """Return the score of each embedding [B, E], as `score` gives it: [B]."""
        score = log_likelihood_ratio(self.classifier(embedding), self.require_classes())
        return score if self.calibration is None else self.calibration.apply(score)

    @property
    def minimum_samples(self) -> int:
        """The shortest waveform it takes, in samples at 16 kHz."""
        return self.backbone.minimum_samples

    @property
    def longest_samples(self) -> None:
        """There is no longest waveform."""

    @property
    def embedding_width(self) -> int:
        """E, the width of an embedding."""
        return self.head.embedding_width

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device

    @property
    def device_type(self) -> str:
        """Where it computes: cpu, cuda or mps."""
        return self.device.type

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Be in evaluation mode for a while, and then in the mode it was in."""
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
        """Return all that is needed to build the model again, as plain values."""
        known = {} if self.classes is None else self.classes.to_json()
        return {
            "task": self.task,
            **known,
            "head": self.head_config.model_dump(),
            "backbone": describe_backbone(self.backbone),
        }

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the artifact: config.json, model.safetensors and, where it has a cohort, cohort.safetensors.

        Raises:
            InputError: the folder cannot be written to.
        """
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
        """Publish the model on the Hugging Face hub, and return the repository's address.

        Args:
            repo_id: `user/name` or `organisation/name`; made where it does not exist.
            card: text of the model card; by default what the model knows of itself, without figures.
            private: whether a new repository is private; by default as its owner's settings say.
            message: of the commit.
            token: that may write; by default the one huggingface_hub finds (HF_TOKEN, `hf auth login`).

        Raises:
            InputError: the id is none, the hub cannot be reached, or it refuses.
        """
        from hybrid_pruning.models.card import Request, render_card

        hub.check_repo_id(repo_id)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            (Path(folder) / hub.CARD).write_text(card or render_card(self, Request(repo_id)), encoding="utf-8")
            return hub.upload(folder, repo_id, None, private, message, token)

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, revision: str | None = None) -> Self:
        """Read an artifact, or a model of the public recipe, from a folder or the hub, in evaluation mode.

        Args:
            name_or_path: folder or hub id; of the recipe's models also the file.
            revision: a branch, tag or commit of a hub id, which may also stand behind it: ``me/detector@v1``.

        Raises:
            InputError: it is missing, damaged, of a newer version, or its weights are not those it describes.
        """
        folder = foreign.locate_model(at_revision(name_or_path, revision))
        if (file := foreign.find_model(folder) or foreign.find_backbone(folder)) is not None:
            return cls.from_recipe(foreign.read_model(file))
        config = artifact.read_config(folder)
        if config.get("task") == BACKBONE_ALONE:
            raise InputError(
                f"{folder}: is an encoder alone, without head; train on it: --set backbone.source={folder}"
            )
        with understanding(folder):
            model = cls.from_architecture(config, config.get("provenance", {}))
        model.calibration = read_calibration(config, folder)
        if config.get("cohort") is not None:
            model.cohort = Cohort.read(folder, config, model.head.embedding_width)
        with fitting(folder):
            model.load_state_dict(artifact.read_weights(folder, config), strict=True)
        model.backbone.pack()
        return model.eval()

    @classmethod
    def from_recipe(cls, found: foreign.RecipeModel) -> Self:
        """Return a model of the public recipe, in evaluation mode; how often its classes were trained on is unknown."""
        classes = Classes(found.labels, (1,) * len(found.labels))
        model = cls.build(found.backbone, found.head, classes, provenance=found.provenance)
        weights = {f"{BACKBONE}{name}": tensor for name, tensor in found.backbone.state_dict().items()}
        model.load_state_dict({**weights, **found.weights}, strict=True)
        model.backbone.pack()
        return model.eval()

    @classmethod
    def from_architecture(cls, about: Mapping[str, Any], provenance: Mapping[str, Any] | None = None) -> Self:
        """Return a model of the given architecture with fresh weights: the dense skeleton, cut to its shape."""
        backbone = build_backbone(about["backbone"])
        classes = None if about["task"] == "speaker-verification" else Classes.from_json(about)
        return cls.build(backbone, HeadConfig(**about["head"]), classes, provenance=provenance)


def read_calibration(config: Mapping[str, Any], folder: Path) -> Calibration | None:
    """Return the calibration in an artifact's description, None where it has none.

    Raises:
        InputError: it cannot be understood.
    """
    if config.get("calibration") is None:
        return None
    return Calibration.from_json(config["calibration"], str(folder / artifact.CONFIG))


def load_backbone(name_or_path: str | Path, random: bool = False, revision: str | None = None) -> Backbone:
    """Load an SSL encoder, whatever form it comes in.

    Args:
        name_or_path: a hub id (``microsoft/wavlm-base``), a local transformers folder, one of our artifacts, or a file
            of WeDefense, DPHuBERT or DiariZen (.bin, .pt, .pth), or its folder.
        random: take the architecture alone, with fresh weights.
        revision: a branch, tag or commit of a hub id, which may also stand behind it: ``microsoft/wavlm-base@main``.

    Returns:
        The encoder in evaluation mode; ``backbone(wave, lengths)`` gives all hidden states.

    Raises:
        InputError: it cannot be found or read, is of an unsupported family, or lacks weights.
    """
    name_or_path = at_revision(name_or_path, revision)
    if artifact.is_artifact(name_or_path):
        return _read_backbone(Path(name_or_path))
    if (file := foreign.find_backbone(Path(name_or_path))) is not None:
        return foreign.read_backbone(file)
    return load_transformers(name_or_path, random).eval()


def _read_backbone(folder: Path) -> Backbone:
    """Read the backbone of an artifact, with or without a head."""
    config = artifact.read_config(folder)
    if config.get("task") != BACKBONE_ALONE:
        return SpeechModel.from_pretrained(folder).backbone
    with understanding(folder):
        backbone = build_backbone(config["backbone"])
    weights = {name.removeprefix(BACKBONE): tensor for name, tensor in artifact.read_weights(folder, config).items()}
    with fitting(folder):
        backbone.load_state_dict(weights, strict=True)
    return backbone.eval()
