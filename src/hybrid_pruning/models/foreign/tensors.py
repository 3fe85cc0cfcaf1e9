"""A foreign file -> its tensors and its config, and which form it has; nothing in it is executed."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from hybrid_pruning.errors import InputError
from hybrid_pruning.models.artifact import find_not_finite
from hybrid_pruning.models.backbone.formats import describe_file
from hybrid_pruning.models.backbone.weights import DAMAGED, OLD_NAMES, first_line, read_pickle

UPSTREAM = "frontend.upstream."
"""What the recipe puts in front of the encoder's names."""
LOG_ALPHA = ".log_alpha"
EXPECTED = "expected the {'state_dict', 'config'} of WeDefense, DPHuBERT or DiariZen, or a recipe's whole model"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a foreign file holds.

    Args:
        file: where it was read from.
        encoder: the encoder's tensors under their own names.
        gates: log_alpha [units] of gates that were not cut out yet, by name.
        rest: what else there is: head and projection of a whole model.
        config: the encoder's description, None where the file has none.
    """

    file: Path
    encoder: Mapping[str, torch.Tensor]
    gates: Mapping[str, torch.Tensor]
    rest: Mapping[str, torch.Tensor]
    config: Mapping[str, Any] | None

    @property
    def form(self) -> str:
        """In words: whether it is an encoder or a whole model, and whether its gates are still there."""
        return f"{'gated' if self.gates else 'pruned or dense'} {'model' if self.rest else 'encoder'}"


def read_checkpoint(file: Path) -> Checkpoint:
    """Read and recognise a foreign file.

    Raises:
        InputError: it is damaged, would run code, is of another program, or holds values that are not finite.
    """
    content = _load(file)
    config = None
    if isinstance(content, Mapping) and {"state_dict", "config"} <= set(content):
        content, config = content["state_dict"], content["config"]
        if not isinstance(config, Mapping):
            raise InputError(f"{file}: its 'config' is no mapping of names to values; {EXPECTED}")
    elif isinstance(content, Mapping) and not any(_is_ours(str(name)) for name in content):
        names = ", ".join(map(str, list(content)[:3])) or "nothing"
        said = describe_file(file) or f"holds {names:.80}: not a file that can be converted; {EXPECTED}"
        raise InputError(f"{file}: {said}")
    state = _tensors(file, content)
    return _sorted(file, state, config)


def _load(file: Path) -> Any:
    try:
        return read_pickle(file)
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({first_line(error)})") from error
    except DAMAGED as error:
        said = f"is damaged or cut short ({first_line(error)}); fetch it again"
        if isinstance(error, UnpicklingError):
            said = f"is damaged, or holds more than tensors and plain values, which is never run; {EXPECTED}"
        raise InputError(f"{file}: {describe_file(file) or said}") from error


def _is_ours(name: str) -> bool:
    return name.startswith(UPSTREAM) and not name.startswith(f"{UPSTREAM}upstream.")  # ESPnet's


def _tensors(file: Path, content: Any) -> dict[str, torch.Tensor]:
    """Check that there are named tensors of finite numbers, and nothing else."""
    if not isinstance(content, Mapping):
        raise InputError(f"{file}: holds a {type(content).__name__}; {EXPECTED}")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise InputError(f"{file}: '{name}' is a {type(value).__name__}, no tensor with a name; {EXPECTED}")
    broken = find_not_finite(content)
    if broken is not None:
        raise InputError(f"{file}: '{broken}' holds values that are not finite; did the training diverge?")
    return dict(content)


def _sorted(file: Path, state: Mapping[str, torch.Tensor], config: Mapping[str, Any] | None) -> Checkpoint:
    encoder: dict[str, torch.Tensor] = {}
    gates: dict[str, torch.Tensor] = {}
    rest: dict[str, torch.Tensor] = {}
    whole = any(name.startswith(UPSTREAM) for name in state)
    for name, tensor in state.items():
        bare = name.removeprefix(UPSTREAM)
        for old, new in OLD_NAMES.items():
            bare = bare.replace(old, new)
        group = rest if whole and not name.startswith(UPSTREAM) else gates if bare.endswith(LOG_ALPHA) else encoder
        group[bare] = tensor.float() if tensor.is_floating_point() else tensor
    return Checkpoint(file, encoder, gates, rest, config)
