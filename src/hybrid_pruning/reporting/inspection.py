"""What the terminal shows of a model and of a machine: what survived the pruning, and what is installed here."""

import importlib
import os
import platform
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch

from hybrid_pruning.console import Span, Spans, Table, say, say_table, takes_blocks
from hybrid_pruning.models.backbone import FAMILIES
from hybrid_pruning.models.size import SECONDS, KeptUnits, count_kept, count_parameters
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.pruning import Budget, shape_of
from hybrid_pruning.trees import portable, section

CONV_COLUMNS = {"conv": "channels"}
LAYER_COLUMNS = {"head": "heads", "attlayer": "attention", "interm": "FFN neurons", "ffnlayer": "FFN"}
DECIDED_BY = {"head": "attlayer", "interm": "ffnlayer"}
"""Kinds of units that are gone with their whole sub-layer, whatever their own slot kept."""
BAR_WIDTH = 10
HEAT = ("magenta", "blue", "cyan", "green", "yellow")
"""From nearly all gone to all kept, as viridis has it."""

PACKAGE = "hybrid-pruning"
EXTRA = "pip install 'hybrid-pruning[{}]'"
DEBIAN = "part of Debian and Ubuntu; elsewhere quickstart --bonafide DIR"
MODULES = {
    "pyworld": ("pyworld-prebuilt", "quickstart", "quickstart: the WORLD vocoder, which makes spoofs"),
    "G722": ("g722", "quickstart", "quickstart: decodes Asterisk's recordings"),
    "onnxruntime": ("onnxruntime", "onnx", "detect, score and verify with an .onnx file; benchmark"),
    "onnxscript": ("onnxscript", "onnx", "export --onnx; benchmark"),
    "tensorboard": ("tensorboard", "tensorboard", "train: curves beside the log"),
}
"""Module -> its package, the extra that brings it, and what needs it."""
TOOLS = {
    "apt-get": ("quickstart: fetches recordings from Debian's packages", DEBIAN),
    "dpkg-deb": ("quickstart: unpacks them", DEBIAN),
}
"""Program -> what needs it, and how to get it."""


@dataclass(frozen=True, slots=True)
class Part:
    """Something optional that may be installed.

    Args:
        name: what it is called.
        found: its version or place, or None where it is absent.
        purpose: what needs it.
        remedy: how to get it.
    """

    name: str
    found: str | None
    purpose: str
    remedy: str


def print_inspection(model: SpeechModel) -> None:
    """Print what survived of a model's backbone as a heat map, then its size beside the dense one and its origin."""
    left = count_kept(model.backbone)
    convs, layers = len(_slots(left, "conv")), len(_slots(left, "head"))
    head_params = count_parameters(model.head) + count_parameters(model.classifier)
    _print_heat_map("conv", CONV_COLUMNS, convs, left)
    _print_heat_map("layer", LAYER_COLUMNS, layers, left)
    _print_sizes(left.budget, head_params)
    for name, text in {"state": _state(model), "labels": _labels(model), "origin": _origin(model.provenance)}.items():
        say(f"{name:<8}{text}")


def tell_size(model: SpeechModel) -> str:
    """Return a model's size in a line: parameters and MACs of its backbone, and the shares of them that are gone."""
    found = count_kept(model.backbone).budget
    params, macs = _short(int(found.params), found.dense_params), _short(int(found.macs), found.dense_macs)
    return (
        f"backbone of {params} parameters ({float(found.sparsity):.1%} removed) and {macs} MACs in {SECONDS:g} s "
        f"({float(found.macs_sparsity):.1%} removed)"
    )


def print_doctor() -> None:
    """Print versions, devices, optional parts, and what is known to break."""
    for title, found in (("versions", find_versions()), ("devices", find_devices())):
        rows = [(name, (value, "yellow" if value.startswith("missing") else "")) for name, value in found.items()]
        say_table(Table(("", ""), rows, title, left=2), box="none")
        say()
    _print_parts(find_parts())
    for warning in find_problems():
        say(f"warning: {warning}", style="yellow")


def find_versions() -> dict[str, str]:
    """Return the versions of Python, of the system, and of all that this package requires."""
    required = [re.match(r"[\w.-]+", line) for line in metadata.requires(PACKAGE) or [] if "extra ==" not in line]
    names = [PACKAGE, *(match[0] for match in required if match)]
    system = {"python": platform.python_version(), "platform": platform.platform()}
    return system | {name: _version(name) or "missing: pip install hybrid-pruning" for name in names}


def find_devices() -> dict[str, str]:
    """Return what torch can compute on."""
    found = {"cpu": f"{torch.get_num_threads()} threads of {os.cpu_count()} cores"}
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found[f"cuda:{index}"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    if not torch.cuda.device_count():
        built = f"a build for CUDA {torch.version.cuda}" if torch.version.cuda else "a build without CUDA"
        found["cuda"] = f"none (torch is {built})"
    found["mps"] = "yes" if torch.backends.mps.is_available() else "none"
    return found


def find_parts() -> list[Part]:
    """Return the optional parts, present or absent."""
    modules = [
        Part(name, _import(name, package), purpose, EXTRA.format(extra))
        for name, (package, extra, purpose) in MODULES.items()
    ]
    return [*modules, *(Part(name, shutil.which(name), *about) for name, about in TOOLS.items())]


def find_problems() -> list[str]:
    """Return what is known to break here, one line each: encoders that cannot be imported, and why they may not be."""
    problems = []
    try:
        for family in FAMILIES:
            importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    except (ImportError, OSError, RuntimeError) as error:
        problems.append(f"transformers' encoders cannot be imported: {' '.join(str(error).split())[:200]}")
    torchaudio = _version("torchaudio")
    if torchaudio and torch.version.cuda is None:
        problems.append(
            f"torchaudio {torchaudio} is installed beside a CPU build of torch; nothing here needs it, and its CUDA "
            "builds keep transformers' encoders from being imported: pip uninstall torchaudio"
        )
    return problems


def _slots(left: KeptUnits, unit: str) -> list[str]:
    return [name for name in left.sizes if name.partition(".")[0] == unit]


def _print_heat_map(title: str, columns: Mapping[str, str], rows: int, left: KeptUnits) -> None:
    digits = len(str(rows - 1))
    cells = [(f"{index:{digits}d}", *(_cell(unit, index, left) for unit in columns)) for index in range(rows)]
    say_table(Table((title, *columns.values()), cells, left=1 + len(columns)), box="none")
    say()


def _cell(unit: str, index: int, left: KeptUnits) -> Spans:
    """One slot: kept/size and a bar; open or closed for a whole sub-layer; `-` for units of a closed one."""
    name = f"{unit}.{index}"
    if unit in DECIDED_BY.values():
        inner = next(kind for kind, layer in DECIDED_BY.items() if layer == unit)
        return _layer_cell(bool(left.kept[name]), bool(left.kept[f"{inner}.{index}"]))
    if unit in DECIDED_BY and not left.kept[f"{DECIDED_BY[unit]}.{index}"]:
        return "-", "dim"
    kept, size = left.kept[name], left.sizes[name]
    digits = len(str(max(left.sizes[slot] for slot in _slots(left, unit))))
    count = f"{kept:>{digits}}/{size:<{digits}} "
    return [count, *_bar(kept / size)]


def _layer_cell(is_open: bool, has_units: bool) -> Spans:
    if is_open:
        return ("open", HEAT[-1]) if has_units else ("bias only", "dim")
    return "closed", "dim"


def _bar(share: float) -> tuple[Span, Span]:
    """A bar that is full only where all is kept and empty only where nothing is."""
    full, empty = ("█", "░") if takes_blocks() else ("#", ".")
    filled = round(share * BAR_WIDTH)
    filled = min(max(filled, 1), BAR_WIDTH - 1) if 0 < share < 1 else filled
    heat = HEAT[min(int(share * len(HEAT)), len(HEAT) - 1)]
    return (full * filled, heat), (empty * (BAR_WIDTH - filled), "dim")


def _print_sizes(budget: Budget, head_params: int) -> None:
    rows: list[tuple[str, ...]] = []
    for name, now, dense, removed in (
        ("backbone parameters", budget.params, budget.dense_params, budget.sparsity),
        (f"backbone MACs, {SECONDS:g} s", budget.macs, budget.dense_macs, budget.macs_sparsity),
    ):
        rows.append((name, _short(int(now), dense), _short(dense, dense), f"{float(removed):.1%}"))
    rows.append(("head parameters", _short(head_params, head_params)))
    say_table(Table(("", "now", "dense", "removed"), rows), box="none")
    say()


def _short(count: int, scale: int) -> str:
    """94381936 -> '94.38 M', in the unit that suits `scale`, so that numbers side by side share it."""
    for factor, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if scale >= factor:
            return f"{count / factor:.2f} {suffix}"
    return str(count)


def _state(model: SpeechModel) -> str:
    shape = shape_of(model.backbone)
    if shape is None:
        return "dense: everything is kept, nothing had gates"
    return f"pruned: {', '.join(shape.units)} had gates"


def _labels(model: SpeechModel) -> str:
    if model.classes is None:
        return "none: for speaker verification, where embeddings are compared"
    pairs = zip(model.classes.labels, model.classes.counts, strict=True)
    return f"{', '.join(f'{label} ({count})' for label, count in pairs)}; in brackets the training utterances"


def _origin(provenance: Mapping[str, Any]) -> str:
    """Where the model came from; provenance is free-form, so that nothing in it can be relied on."""
    if converted := section(provenance, "converted"):
        return f"converted from {converted.get('file')} ({converted.get('form')})"
    recipe = provenance.get("recipe")
    if not isinstance(recipe, Mapping):
        return "not recorded"
    pruning, backbone = (section(recipe, part) for part in ("pruning", "backbone"))
    target = "no pruning"
    if pruning.get("use_pruning_loss"):
        point = provenance.get("snapshot_at", pruning.get("target_sparsity"))
        target = f"target: {point} of the {pruning.get('constraint')} removed"
    source = portable(backbone.get("source", "an unnamed backbone"))
    weights = "random weights in the shape of " if backbone.get("random") else ""
    averaged = provenance.get("averaged_checkpoints")
    mean = f"; mean of {averaged} checkpoints" if averaged else ""
    return f"{weights}{source}; {target}; seed {recipe.get('seed')}{mean}"


def _print_parts(parts: list[Part]) -> None:
    rows = []
    for part in parts:
        found = (part.found, "green") if part.found else ("absent", "yellow")
        rows.append((part.name, found, part.purpose if part.found else f"{part.purpose}: {part.remedy}"))
    say_table(Table(("", "", ""), rows, "optional parts", left=3), box="none")


def _import(module: str, package: str) -> str | None:
    """Return the version of a module that really can be imported, or None."""
    try:
        importlib.import_module(module)
    except ImportError:
        return None
    return _version(package) or "version unknown"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
