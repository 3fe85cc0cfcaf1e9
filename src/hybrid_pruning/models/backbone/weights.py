"""The weights of a transformers folder or hub repository, read strictly: whatever is amiss is named."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers.utils.hub import cached_file

from hybrid_pruning.errors import InputError
from hybrid_pruning.files import split_revision
from hybrid_pruning.models.backbone.formats import describe_file, describe_folder
from hybrid_pruning.trees import read_json

FILES = ("model.safetensors", "pytorch_model.bin")
INDEX = ".index.json"
"""Appended to either name where the weights are spread over several files."""
OLD_NAMES = {".conv.weight_g": ".conv.parametrizations.weight.original0"}
OLD_NAMES |= {".conv.weight_v": ".conv.parametrizations.weight.original1"}
"""Of weight normalisation, before torch 2."""
DAMAGED = (
    *(OSError, RuntimeError, ValueError, EOFError, AttributeError, TypeError, LookupError),
    *(SafetensorError, UnpicklingError),
)
"""What reading a damaged file may raise, or one that holds something else."""


def read_encoder(
    name_or_path: str | Path,
    expected: Mapping[str, torch.Tensor],
    prefixes: Sequence[str],
    rest: Sequence[str] | None,
    optional: Sequence[str] = (),
) -> dict[str, torch.Tensor]:
    """Read exactly the weights of an encoder, in float32.

    Args:
        name_or_path: a hub id or a folder.
        expected: every weight the encoder has, by its size and type.
        prefixes: what may stand in front of an encoder's weight; nothing may, too.
        rest: what the names of weights begin with that belong to other parts of the checkpoint and are left out; None
            where every name that is not expected is.
        optional: weights that no hidden state depends on, zeros where they are missing.

    Raises:
        InputError: no weights, a damaged file, or a weight that is missing, unexpected, there twice, of another size
            or type; the message names it.
    """
    found: dict[str, torch.Tensor] = {}
    names: dict[str, str] = {}
    for file in _weight_files(name_or_path):
        for name, tensor in _read_tensors(file, lambda name: not name.startswith(tuple(rest or ("\0",)))).items():
            prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), "")
            bare = name.removeprefix(prefix)
            for old, new in OLD_NAMES.items():
                bare = bare.replace(old, new)
            if rest is None and bare not in expected:
                continue
            if bare in names:
                raise InputError(f"{file}: '{names[bare]}' and '{name}' are the same weight; which one counts?")
            found[bare], names[bare] = tensor, name
    for name in optional:
        if name in expected and name not in found:
            found[name] = torch.zeros(expected[name].shape)
    _check(name_or_path, found, names, expected, prefixes[-1])
    return {name: found[name].to(tensor.dtype) for name, tensor in expected.items()}


def find_file(name_or_path: str | Path, file: str, optional: bool = False) -> Path | None:
    """Return the local path of a repository's file, downloaded where need be; None where it has no such file.

    Args:
        name_or_path: a hub id, with @ and a revision or without, or a folder.
        file: its name there.
        optional: also None where the hub cannot be asked.

    Raises:
        OSError: the hub cannot be asked.
    """
    name, revision = split_revision(name_or_path)
    options = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": not optional}
    try:
        found = cached_file(name, file, revision=revision, **options)
    except OSError:
        if not optional:
            raise
        return None
    return None if found is None else Path(found)


def read_pickle(file: Path) -> Any:
    """Read tensors and plain values; nothing in the file is executed.

    Raises:
        Exception: one of `DAMAGED`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what torch takes a damaged file for
        return torch.load(file, map_location="cpu", weights_only=True)


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _weight_files(name_or_path: str | Path) -> list[Path]:
    for name in FILES:
        if (file := _find(name_or_path, name)) is not None:
            return [file]
        if (index := _find(name_or_path, name + INDEX)) is not None:
            return [_shard(name_or_path, index, shard) for shard in _shards(index)]
    raise InputError(
        f"{name_or_path}: the weights cannot be loaded ({describe_folder(Path(name_or_path)) or 'none there'}); "
        f"expected {' or '.join(FILES)}, whole or in shards"
    )


def _find(name_or_path: str | Path, file: str) -> Path | None:
    try:
        return find_file(name_or_path, file)
    except OSError as error:
        raise InputError(f"{name_or_path}: {file} cannot be fetched ({first_line(error)})") from error


def _shards(index: Path) -> list[str]:
    try:
        return sorted(set(read_json(index)["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{index}: the weights cannot be loaded (is no index of shards: {first_line(error)})"
        ) from error


def _shard(name_or_path: str | Path, index: Path, shard: str) -> Path:
    file = _find(name_or_path, str(shard))
    if file is None:
        raise InputError(f"{index}: the weights cannot be loaded (it names '{shard}', which is not there)")
    return file


def _read_tensors(file: Path, wanted: Callable[[str], bool]) -> dict[str, torch.Tensor]:
    """Read the wanted tensors of a file; nothing in it is executed."""
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as tensors:
                return {name: tensors.get_tensor(name) for name in tensors.keys() if wanted(name)}  # noqa: SIM118
        state = read_pickle(file)
        return {name: tensor for name, tensor in state.items() if wanted(name)}
    except DAMAGED as error:
        raise InputError(
            f"{file}: the weights cannot be loaded ({describe_file(file) or first_line(error)})"
        ) from error


def _check(
    source: str | Path,
    found: Mapping[str, object],
    names: Mapping[str, str],
    expected: Mapping[str, torch.Tensor],
    prefix: str,
) -> None:
    prefix = next((name.removesuffix(bare) for bare, name in names.items() if bare in expected), prefix)
    if missing := [name for name in expected if name not in found]:
        raise InputError(
            f"{source}: {len(missing)} weights are missing from the checkpoint, first '{prefix}{missing[0]}'; "
            "they would be random"
        )
    if unexpected := [names[bare] for bare in names if bare not in expected]:
        raise InputError(
            f"{source}: {len(unexpected)} weights are not of the model that config.json describes, "
            f"first '{unexpected[0]}'; do they belong together?"
        )
    for bare, name in names.items():
        tensor, asked = found[bare], expected[bare]
        if not isinstance(tensor, torch.Tensor) or tensor.is_floating_point() != asked.is_floating_point():
            raise InputError(f"{source}: '{name}' is no tensor of floating-point numbers; quantised weights?")
        if tensor.shape != asked.shape:
            raise InputError(
                f"{source}: '{name}' is of the wrong size: {list(tensor.shape)}, "
                f"config.json asks for {list(asked.shape)}"
            )
