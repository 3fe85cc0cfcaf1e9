"""A machine: versions, devices, what is fast on it, optional parts and known problems; with torch or without."""

import importlib
import os
import platform
import re
import shutil
from importlib import metadata
from pathlib import Path

from hybrid_pruning.console import Spans, Table, say, say_table
from hybrid_pruning.errors import in_one_line
from hybrid_pruning.extras import first_absent, remedy

PACKAGE = "hybrid-pruning"
PARTS = {
    "torch": ("torch", "train, export, prune; models without an .onnx file"),
    "transformers": ("transformers", "the same: encoders"),
    "onnxscript": ("onnxscript", "export --onnx and --openvino"),
    "openvino": ("openvino", "export --openvino, and what runs such a file"),
    "nncf": ("nncf", "export --openvino --precision int8"),
    "fastapi": ("fastapi", "serve"),
    "pyworld": ("pyworld-prebuilt", "quickstart: the WORLD vocoder, which makes spoofs"),
    "G722": ("g722", "quickstart: decodes Asterisk's recordings"),
    "tensorboard": ("tensorboard", "train: curves beside the log"),
    "sounddevice": ("sounddevice", "detect --microphone"),
}
"""Module of an extra -> its package, and its purpose."""
TOOLS = {
    "apt-get": "quickstart: fetches recordings from Debian's packages",
    "dpkg-deb": "quickstart: unpacks them",
}
"""Optional program -> its purpose."""
DEBIAN = "part of Debian and Ubuntu; elsewhere quickstart --bonafide DIR"
INSTRUCTIONS = {
    "float32": ("avx512f", "avx2", "asimd"),
    "8-bit": ("amx_int8", "avx512_vnni", "avx_vnni", "i8mm", "asimddp"),
    "bfloat16": ("amx_bf16", "avx512_bf16", "bf16"),
}
"""Kind of numbers -> the instructions of x86 and ARM that make products of them fast, the best first."""
WITHOUT = {
    "float32": "narrow vectors alone: slow",
    "8-bit": "no VNNI or the like: export --onnx --int8 makes files smaller, and little faster",
    "bfloat16": "no instructions: float32 is faster (mixed_precision: no)",
}
ENCODERS = ("wav2vec2", "hubert", "wavlm", "whisper")
"""Modules of transformers that have to be there."""


def print_doctor() -> None:
    """Print versions, devices, instructions, optional parts, and known problems."""
    for title, found in (("versions", find_versions()), ("devices", find_devices()), ("fast here", find_fast())):
        rows = [(name, (text, "yellow" if text.startswith(("missing", "no")) else "")) for name, text in found.items()]
        say_table(Table(("", ""), rows, title, left=2), box="none")
        say()
    say_table(Table(("", "", ""), find_optional(), "optional parts", left=3), box="none")
    for warning in find_problems():
        say(f"warning: {warning}", style="yellow")


def find_versions() -> dict[str, str]:
    """Return the versions of Python, of the system, and of all that the base installation requires."""
    required = [re.match(r"[\w.-]+", line) for line in metadata.requires(PACKAGE) or [] if "extra ==" not in line]
    names = [PACKAGE, *(match[0] for match in required if match)]
    system = {"python": platform.python_version(), "platform": platform.platform()}
    return system | {name: _version(name) or "missing: pip install hybrid-pruning" for name in names}


def find_devices() -> dict[str, str]:
    """Return the devices to compute on; without torch the processor alone."""
    if first_absent("torch"):
        return {"cpu": f"{os.cpu_count()} cores", "cuda": f"not used without torch: {remedy('torch')}"}
    import torch

    found = {"cpu": f"{torch.get_num_threads()} threads of {os.cpu_count()} cores"}
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found[f"cuda:{index}"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    if not torch.cuda.device_count():
        built = f"a build for CUDA {torch.version.cuda}" if torch.version.cuda else "a build without CUDA"
        found["cuda"] = f"none (torch is {built})"
    found["mps"] = "yes" if torch.backends.mps.is_available() else "none"
    return found


def find_fast(processors: Path = Path("/proc/cpuinfo")) -> dict[str, str]:
    """Return what the processor's instructions make fast, by the kind of numbers, and what they do not."""
    try:
        flags = set(re.findall(r"^(?:flags|Features)\s*:(.*)", processors.read_text(errors="replace"), re.MULTILINE))
    except OSError:
        return dict.fromkeys(INSTRUCTIONS, "not known on this system; measure it: hybrid-pruning benchmark MODEL")
    there = {flag for line in flags for flag in line.split()}
    found = {kind: next((name for name in names if name in there), None) for kind, names in INSTRUCTIONS.items()}
    return {kind: f"yes: {name}" if name else WITHOUT[kind] for kind, name in found.items()}


def find_optional() -> list[tuple[Spans, ...]]:
    """Return each optional part: its name, its version or place, and its purpose, with a remedy where it is absent."""
    found = {}
    for name, (package, purpose) in PARTS.items():
        try:
            importlib.import_module(name)
            version = _version(package) or "version unknown"
        except (ImportError, OSError):
            version = None
        found[name] = version, purpose, remedy(name)
    found |= {name: (shutil.which(name), purpose, DEBIAN) for name, purpose in TOOLS.items()}
    return [
        (name, (there, "green") if there else ("absent", "yellow"), purpose if there else f"{purpose}: {remedy}")
        for name, (there, purpose, remedy) in found.items()
    ]


def find_problems() -> list[str]:
    """Return known problems of this installation, one line each: encoders that cannot be imported, and why."""
    if first_absent("torch", "transformers"):
        return []
    import torch

    problems = []
    try:
        for family in ENCODERS:
            importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    except (ImportError, OSError, RuntimeError) as error:
        problems.append(f"transformers' encoders cannot be imported: {in_one_line(error)}")
    torchaudio = _version("torchaudio")
    if torchaudio and torch.version.cuda is None:
        problems.append(
            f"torchaudio {torchaudio} is installed beside a CPU build of torch; nothing here needs it, and its CUDA "
            "builds keep transformers' encoders from being imported: pip uninstall torchaudio"
        )
    return problems


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
