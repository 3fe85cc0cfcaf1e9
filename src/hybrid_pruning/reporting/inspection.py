"""A model or a machine on the terminal: the kept units of a model, and the versions and devices that are installed."""

import importlib
import os
import platform
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from hybrid_pruning.console import Span, Spans, Table, say, say_table, takes_blocks
from hybrid_pruning.models.backbone import FAMILIES
from hybrid_pruning.models.size import SECONDS, KeptUnits, count_kept, count_parameters
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.pruning import shape_of
from hybrid_pruning.reporting.figures import SUBLAYERS, draw_kept_units
from hybrid_pruning.reporting.plots import save_figure
from hybrid_pruning.trees import portable, section

CONV_COLUMNS = {"conv": "channels"}
LAYER_COLUMNS = {"head": "heads", "attlayer": "attention", "interm": "FFN neurons", "ffnlayer": "FFN"}
BAR_WIDTH = 10
HEAT = ("magenta", "blue", "cyan", "green", "yellow")
"""From nearly all removed to all kept, as viridis has it."""

PACKAGE = "hybrid-pruning"
MODULES = {
    "pyworld": ("pyworld-prebuilt", "quickstart", "quickstart: the WORLD vocoder, which makes spoofs"),
    "G722": ("g722", "quickstart", "quickstart: decodes Asterisk's recordings"),
    "onnxruntime": ("onnxruntime", "onnx", "detect, score and verify with an .onnx file; benchmark"),
    "onnxscript": ("onnxscript", "onnx", "export --onnx; benchmark"),
    "tensorboard": ("tensorboard", "tensorboard", "train: curves beside the log"),
}
"""Optional module -> its package, the extra that brings it, and its purpose."""
TOOLS = {
    "apt-get": "quickstart: fetches recordings from Debian's packages",
    "dpkg-deb": "quickstart: unpacks them",
}
"""Optional program -> its purpose."""
DEBIAN = "part of Debian and Ubuntu; elsewhere quickstart --bonafide DIR"


@dataclass(frozen=True, slots=True)
class Inspection:
    """The size of a model (head and classifier together), and in words its state, training labels and origin."""

    units: KeptUnits
    head_params: int
    state: str
    labels: str
    origin: str


def inspect_model(model: str | Path | SpeechModel, out: str | Path | None = None) -> Inspection:
    """Return size, kept units and origin of a model (a folder, a hub id); `out` also draws them: .svg, .png or .pdf."""
    found = model if isinstance(model, SpeechModel) else SpeechModel.from_pretrained(str(model))
    units, shape = count_kept(found.backbone), shape_of(found.backbone)
    if out is not None:
        save_figure(draw_kept_units(units), out)
    labels = "none: for speaker verification, where embeddings are compared"
    if found.classes is not None:
        pairs = zip(found.classes.labels, found.classes.counts, strict=True)
        labels = f"{', '.join(f'{label} ({count})' for label, count in pairs)}; in brackets the training utterances"
    state = "dense: everything is kept, nothing had gates"
    if shape is not None:
        state = f"pruned: {', '.join(shape.units)} had gates"
    head_params = count_parameters(found.head) + count_parameters(found.classifier)
    return Inspection(units, head_params, state, labels, _origin(found.provenance))


def print_inspection(found: Inspection) -> None:
    """Print a heat map of the kept units, then the model's size beside the dense one and its origin."""
    units, budget = found.units, found.units.budget
    for title, columns in (("conv", CONV_COLUMNS), ("layer", LAYER_COLUMNS)):
        count = len(_slots(units, next(iter(columns))))
        digits = len(str(count - 1))
        cells = [(f"{index:{digits}d}", *(_cell(unit, index, units) for unit in columns)) for index in range(count)]
        say_table(Table((title, *columns.values()), cells, left=1 + len(columns)), box="none")
        say()
    rows = [
        (name, _short(int(now), dense), _short(dense, dense), f"{float(removed):.1%}")
        for name, now, dense, removed in (
            ("backbone parameters", budget.params, budget.dense_params, budget.sparsity),
            (f"backbone MACs, {SECONDS:g} s", budget.macs, budget.dense_macs, budget.macs_sparsity),
        )
    ]
    head = ("head parameters", _short(found.head_params, found.head_params))
    say_table(Table(("", "now", "dense", "removed"), [*rows, head]), box="none")
    say()
    for name in ("state", "labels", "origin"):
        say(f"{name:<8}{getattr(found, name)}")


def describe_size(model: SpeechModel) -> str:
    """Return parameters and MACs of a model's backbone in a line, and the shares of them that are removed."""
    found = count_kept(model.backbone).budget
    params, macs = _short(int(found.params), found.dense_params), _short(int(found.macs), found.dense_macs)
    return (
        f"backbone of {params} parameters ({float(found.sparsity):.1%} removed) and {macs} MACs in {SECONDS:g} s "
        f"({float(found.macs_sparsity):.1%} removed)"
    )


def print_doctor() -> None:
    """Print versions, devices, optional parts, and known problems."""
    for title, found in (("versions", find_versions()), ("devices", find_devices())):
        rows = [(name, (value, "yellow" if value.startswith("missing") else "")) for name, value in found.items()]
        say_table(Table(("", ""), rows, title, left=2), box="none")
        say()
    say_table(Table(("", "", ""), find_optional(), "optional parts", left=3), box="none")
    for warning in find_problems():
        say(f"warning: {warning}", style="yellow")


def find_versions() -> dict[str, str]:
    """Return the versions of Python, of the system, and of all that this package requires."""
    required = [re.match(r"[\w.-]+", line) for line in metadata.requires(PACKAGE) or [] if "extra ==" not in line]
    names = [PACKAGE, *(match[0] for match in required if match)]
    system = {"python": platform.python_version(), "platform": platform.platform()}
    return system | {name: _version(name) or "missing: pip install hybrid-pruning" for name in names}


def find_devices() -> dict[str, str]:
    """Return the devices that torch can compute on."""
    found = {"cpu": f"{torch.get_num_threads()} threads of {os.cpu_count()} cores"}
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found[f"cuda:{index}"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    if not torch.cuda.device_count():
        built = f"a build for CUDA {torch.version.cuda}" if torch.version.cuda else "a build without CUDA"
        found["cuda"] = f"none (torch is {built})"
    found["mps"] = "yes" if torch.backends.mps.is_available() else "none"
    return found


def find_optional() -> list[tuple[Spans, ...]]:
    """Return each optional part: its name, its version or place, and its purpose, with a remedy where it is absent."""
    found = {}
    for name, (package, extra, purpose) in MODULES.items():
        try:
            importlib.import_module(name)
            version = _version(package) or "version unknown"
        except ImportError:
            version = None
        found[name] = version, purpose, f"pip install 'hybrid-pruning[{extra}]'"
    found |= {name: (shutil.which(name), purpose, DEBIAN) for name, purpose in TOOLS.items()}
    return [
        (name, (there, "green") if there else ("absent", "yellow"), purpose if there else f"{purpose}: {remedy}")
        for name, (there, purpose, remedy) in found.items()
    ]


def find_problems() -> list[str]:
    """Return known problems of this installation, one line each: encoders that cannot be imported, and why."""
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


def _slots(units: KeptUnits, unit: str) -> list[str]:
    return [name for name in units.sizes if name.partition(".")[0] == unit]


def _cell(unit: str, index: int, units: KeptUnits) -> Spans:
    """Return kept/size and a bar for units, `-` for those of a closed sub-layer; open or closed for a sub-layer."""
    name = f"{unit}.{index}"
    if unit in SUBLAYERS.values():
        inner = next(kind for kind, layer in SUBLAYERS.items() if layer == unit)
        if not units.kept[name]:
            return "closed", "dim"
        return ("open", HEAT[-1]) if units.kept[f"{inner}.{index}"] else ("bias only", "dim")
    if unit in SUBLAYERS and not units.kept[f"{SUBLAYERS[unit]}.{index}"]:
        return "-", "dim"
    kept, size = units.kept[name], units.sizes[name]
    digits = len(str(max(units.sizes[slot] for slot in _slots(units, unit))))
    return [f"{kept:>{digits}}/{size:<{digits}} ", *_bar(kept / size)]


def _bar(share: float) -> tuple[Span, Span]:
    """Return a bar that is full only where all is kept and empty only where nothing is."""
    full, empty = ("█", "░") if takes_blocks() else ("#", ".")
    filled = round(share * BAR_WIDTH)
    filled = min(max(filled, 1), BAR_WIDTH - 1) if 0 < share < 1 else filled
    heat = HEAT[min(int(share * len(HEAT)), len(HEAT) - 1)]
    return (full * filled, heat), (empty * (BAR_WIDTH - filled), "dim")


def _short(count: int, scale: int) -> str:
    """Return 94381936 as '94.38 M', in the unit that suits `scale`, so that numbers side by side share it."""
    for factor, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if scale >= factor:
            return f"{count / factor:.2f} {suffix}"
    return str(count)


def _origin(provenance: Mapping[str, Any]) -> str:
    """Return the origin of a model; provenance is free-form, so that nothing in it can be relied on."""
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


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
