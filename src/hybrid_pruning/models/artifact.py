"""The artifact's files: config.json (the description), model.safetensors (the weights), perhaps a cohort's vectors."""

import hashlib
import json
import platform
from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybrid_pruning.errors import InputError
from hybrid_pruning.files import DIGESTS, atomic_write, check_digest, digest_file, split_revision, write_json
from hybrid_pruning.models import cohort
from hybrid_pruning.trees import portable, read_json, section

if TYPE_CHECKING:
    import torch

FORMAT = "hybrid-pruning"
FORMAT_VERSION = 1
CONFIG, WEIGHTS = "config.json", "model.safetensors"
UNSEALED = (DIGESTS, "provenance", "versions")
"""Keys of config.json that its digest of itself leaves out: nothing is computed from them."""


def write_artifact(folder: Path, config: Mapping[str, Any], state: "Mapping[str, torch.Tensor]") -> None:
    """Write a model's description and weights; the config comes last, so that a folder with one is complete."""
    from safetensors.torch import save

    with atomic_write(folder / WEIGHTS, "wb") as handle:
        handle.write(save({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}))
    header = {"format": FORMAT, "format_version": FORMAT_VERSION, "versions": versions()}
    digests = {name: digest_file(folder / name) for name in _files_of(config)}
    _write_config(folder, {**header, **config, DIGESTS: digests})


def write_variant(source: Path, config: Mapping[str, Any], out: Path) -> None:
    """Write an artifact with the weights of another and a description of its own; `out` may be the other itself."""
    if out.resolve() != source.resolve():
        for name in _files_of(config):
            with atomic_write(out / name, "wb") as handle:
                handle.write((source / name).read_bytes())
    _write_config(out, config)


def _files_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the files that belong to a description."""
    return (WEIGHTS, cohort.FILE) if "cohort" in config else (WEIGHTS,)


def _write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write a description without paths of this machine and, among the digests of its files, with one of itself."""
    config = {**config, "provenance": portable(config.get("provenance", {}))}
    digests = {**config.get(DIGESTS, {}), CONFIG: digest_of(config, UNSEALED)}
    write_json(folder / CONFIG, {**config, DIGESTS: digests})


def digest_of(description: Mapping[str, Any], without: Collection[str] = (DIGESTS,)) -> str:
    """Return the SHA-256 of a description but for some of its keys, independent of its JSON's layout."""
    plain = {key: value for key, value in description.items() if key not in without}
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def forget_cohort(folder: Path) -> None:
    """Remove the cohort, and the calibration fitted with it, from an artifact that is about to get another one."""
    if is_artifact(folder) and "cohort" in (config := read_config(folder)):
        write_variant(folder, {name: config[name] for name in config if name not in ("cohort", "calibration")}, folder)


def is_artifact(folder: str | Path) -> bool:
    """Return whether a folder holds one of our artifacts rather than, say, a transformers model."""
    try:
        return bool(read_json(Path(folder) / CONFIG).get("format") == FORMAT)
    except InputError:
        return False


def locate(name_or_path: str | Path, also: Sequence[str] = ()) -> Path:
    """Return the local folder of an artifact; of a hub id (with @ and a revision or without) download it and `also`."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    from huggingface_hub.errors import HTTPError as NetworkError  # type: ignore[attr-defined]  # httpx's, or httpx2's

    folder = Path(name_or_path)
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise InputError(f"{folder}: is a file; give the folder of an exported model (score and detect take graphs)")
    name, revision = split_revision(name_or_path)
    try:
        patterns = [CONFIG, WEIGHTS, cohort.FILE, *also]
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except (NetworkError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f"{name_or_path}: neither a folder here nor a model that could be fetched from the hub"
        ) from error


def read_config(folder: Path) -> dict[str, Any]:
    """Read and check an artifact's config.json."""
    another = "describes no hybrid-pruning artifact; export a run to get one"
    found = read_description(folder / CONFIG, FORMAT, FORMAT_VERSION, f"is {folder} an exported model?", another)
    sealed = digest_of(found, UNSEALED)
    if section(found, DIGESTS).get(CONFIG, sealed) != sealed:
        raise InputError(f"{folder / CONFIG}: is damaged, or edited by hand; fetch or export the model anew")
    return found


def read_description(path: Path, kind: str, version: int, missing: str, another: str) -> dict[str, Any]:
    """Read a model's JSON description; `missing` is the remedy where there is none, `another` of another format."""
    found = read_json(path, missing, "export the model again")
    if found.get("format") != kind:
        raise InputError(f"{path}: {another}")
    if found.get("format_version") != version:
        raise InputError(
            f"{path}: format version {found.get('format_version')}, this program reads {version}; "
            "install the version that wrote it"
        )
    return found


def read_weights(folder: Path, config: Mapping[str, Any]) -> "dict[str, torch.Tensor]":
    """Read an artifact's weights, given its description."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / WEIGHTS
    check_digest(path, config)
    try:
        weights: dict[str, torch.Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read ({error}); the artifact is incomplete, export it again") from error
    require_finite(path, weights)
    return weights


def require_finite(path: Path, weights: "Mapping[str, torch.Tensor]") -> None:
    """Require that the tensors of a file hold neither NaN nor infinity."""
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise InputError(f"{path}: '{name}' holds values that are not finite; did the training diverge?")


def versions() -> dict[str, str]:
    """Return the versions of the programs that compute."""
    names = ("hybrid-pruning", "torch", "transformers", "numpy")
    return {"python": platform.python_version(), **{name: _version(name) for name in names}}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"  # run from its source


def fingerprint_model(model: Any, calibrated: bool = True) -> str:
    """Return a digest of a model's architecture and weights and, where scores are meant, of its calibration."""
    about = {**model.architecture(), **({"calibration": repr(model.calibration)} if calibrated else {})}
    digest = hashlib.blake2b(json.dumps(about, sort_keys=True, default=str).encode(), digest_size=16)
    for name, values in model.weights():
        digest.update(name.encode())
        digest.update(values)
    return digest.hexdigest()
