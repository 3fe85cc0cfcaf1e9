"""The import order of ARCHITECTURE.md: a module imports only from modules earlier in the line."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import hybrid_pruning

PACKAGE = "hybrid_pruning"
ROOT = Path(hybrid_pruning.__file__).parent
LINE = """
errors files tables terminal plain trees memory processes workers stages
config metrics bootstrap plots manifest names corpora evaluation calibration cohort
libsndfile ffmpeg level audio audit durations augment batches subset sampling
pruning waves backbone survivors head artifact foreign hub card classifier description model conversion margins
objective onnx_model embedder windows jobs partial inference scoring detection verification
validation trainset checkpoint run_folder board runlog skipped optimizers pace family overlap checks trainer
export training onnx_int8 onnx_export inspection benchmark report quickstart pipeline sweep cli
"""
ORDER = LINE.split()
MAY_IMPORT_THE_ROOT = {"cli", "quickstart"}
FORBIDDEN_NAMES = {"utils", "helpers", "common", "misc", "manager"}
FILES = sorted(ROOT.rglob("*.py"))
MODULES = [path for path in FILES if path != ROOT / "__init__.py"]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def part(path: Path) -> str:
    """Return the module or sub-package of the line that a file belongs to."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    """Yield the dotted name of everything a file imports, wherever in it; `from a import b` gives a.b."""
    package = [PACKAGE, *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{source}.{alias.name}" for alias in node.names)


def parts_imported(path: Path) -> set[str]:
    """Return the parts of the line a file imports; "" for the package itself, where its public names are."""
    own = (found.split(".") for found in imported(path))
    return {names[1] if names[1:2] and names[1] in ORDER else "" for names in own if names[0] == PACKAGE}


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_module_imports_only_from_earlier_ones(path: Path):
    here = part(path)
    assert here in ORDER, f"{name(path)}: give it a place in ORDER and in ARCHITECTURE.md"
    allowed = {*ORDER[: ORDER.index(here) + 1], *([""] if here in MAY_IMPORT_THE_ROOT else [])}
    assert parts_imported(path) <= allowed


@pytest.mark.parametrize("path", [path for path in MODULES if part(path) == "pruning"], ids=name)
def test_the_core_needs_torch_and_nothing_else(path: Path):
    found = {module.partition(".")[0] for module in imported(path)}
    assert found <= {*sys.stdlib_module_names, "torch", PACKAGE}
    assert parts_imported(path) <= {"pruning"}


@pytest.mark.parametrize("path", FILES, ids=name)
def test_manners(path: Path):
    assert path.stem not in FORBIDDEN_NAMES
    assert not any(module.endswith(".*") for module in imported(path)), "star import"
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), "a file says its purpose in its first line"


@pytest.mark.parametrize("path", [path for path in MODULES if name(path) != "terminal.py"], ids=name)
def test_text_meets_the_terminal_at_one_door(path: Path):
    """Only `terminal` prints: elsewhere a name from a file could be markup, or a code that the terminal obeys."""
    assert "rich" not in {module.partition(".")[0] for module in imported(path)}
    called = {ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)}
    printing = re.compile(r"print|input|typer\.(echo|secho|prompt|confirm)|(\w+\.)*(stdout|stderr)\.write|console\.\w+")
    assert not [call for call in called if printing.fullmatch(call)], "use hybrid_pruning.terminal"


def test_the_public_names_are_there():
    for public in hybrid_pruning.__all__:
        assert hasattr(hybrid_pruning, public), public
