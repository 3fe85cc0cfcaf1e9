"""The eight layers of ARCHITECTURE.md: a module imports from layers above its own, and from its own room."""

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import hybrid_pruning

PACKAGE = "hybrid_pruning"
ROOT = Path(hybrid_pruning.__file__).parent
LAYERS = [
    ("errors", "extras", "tasks", "files", "trees", "console", "markdown", "distributed"),
    ("pruning", "metrics", "audio", "config"),
    ("data", "models"),
    ("scoring", "evaluation"),
    ("training",),
    ("reporting", "benchmarks"),
    ("jobs", "serving"),
    ("cli",),
]
MAY_IMPORT_THE_PACKAGE = {"cli"}
LAYER = {room: number for number, rooms in enumerate(LAYERS) for room in rooms}
FORBIDDEN_NAMES = {"utils", "helpers", "common", "misc", "manager"}
FILES = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text("utf-8")) for path in sorted(ROOT.rglob("*.py"))}
MODULES = {name: tree for name, tree in FILES.items() if name != "__init__.py"}


def module(name: str) -> str:
    """Return the dotted name of a file."""
    return ".".join([PACKAGE, *Path(name).with_suffix("").parts]).removesuffix(".__init__")


def imported(name: str, runtime: bool = False) -> Iterator[str]:
    """Yield the dotted name of everything a file imports, wherever in it; `from a import b` gives a.b."""
    parts = module(name).split(".")
    package = parts if name.endswith("__init__.py") else parts[:-1]
    for node in walk(FILES[name]) if runtime else ast.walk(FILES[name]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{source}.{alias.name}" for alias in node.names)


def walk(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes that run when a file is imported: none of functions, none for type checkers alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef) or (
            isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        ):
            continue
        yield node
        yield from walk(node)


def rooms_imported(name: str) -> set[str]:
    """Return the rooms that a file imports; "" for the package itself, where its public names are."""
    own = [found.split(".") for found in imported(name) if found.partition(".")[0] == PACKAGE]
    return {parts[1] if parts[1:2] and parts[1] in LAYER else "" for parts in own}


@pytest.mark.parametrize("room", LAYER)
def test_a_room_imports_from_layers_above_its_own(room: str):
    above = {other for other, layer in LAYER.items() if layer < LAYER[room] or (layer == LAYER[room] == 0)}
    for name in MODULES:
        if name.partition("/")[0].removesuffix(".py") == room:
            public = [""] if room in MAY_IMPORT_THE_PACKAGE else []
            assert rooms_imported(name) <= {*above, room, *public}, name


def test_every_file_has_a_room():
    assert {name.partition("/")[0].removesuffix(".py") for name in MODULES} == set(LAYER)


def test_no_circle_between_files():
    """Of imports that run; in a package that re-exports, a file counts and not the `__init__` in front of it."""
    known = {module(name): name for name in FILES}
    graph: dict[str, set[str]] = {}
    for name in MODULES:
        found = {known.get(one) or known.get(one.rpartition(".")[0]) for one in imported(name, runtime=True)}
        graph[name] = {other for other in found if other and other != name}
    while leaves := [name for name, others in graph.items() if not others & set(graph)]:
        for name in leaves:
            del graph[name]
    assert not graph


def test_names_are_there_once():
    stems = Counter(Path(name).stem for name in FILES if not Path(name).stem.startswith("__"))
    assert not [stem for stem, count in stems.items() if count > 1 or stem in FORBIDDEN_NAMES]
    classes = Counter(node.name for tree in FILES.values() for node in tree.body if isinstance(node, ast.ClassDef))
    assert not [name for name, count in classes.items() if count > 1]


def test_the_core_needs_torch_and_nothing_else():
    for name in MODULES:
        if name.startswith("pruning/"):
            found = {one.partition(".")[0] for one in imported(name)}
            assert found <= {*sys.stdlib_module_names, "torch", PACKAGE}, name
            assert rooms_imported(name) <= {"pruning"}, name


def test_a_gpu_is_measured_without_decoders():
    """On a machine without network there are torch, transformers with what comes with it, and perhaps no more."""
    known, found = {module(name): name for name in FILES}, set[str]()
    waiting = [f"{PACKAGE}.benchmarks.{name}" for name in ("__main__", "gpu")]
    while waiting:
        if (name := waiting.pop()) in known and name not in found:
            found.add(name)
            for one in imported(known[name], runtime=True):
                parts = one.split(".")
                waiting += [".".join(parts[:size]) for size in range(1, len(parts) + 1)]
        elif name not in known and not name.startswith(PACKAGE):
            found.add(name.partition(".")[0])
    foreign = {name for name in found if not name.startswith(PACKAGE)} - sys.stdlib_module_names
    given = {"torch", "transformers", "huggingface_hub", "numpy", "safetensors", "yaml", "rich"}
    assert foreign == {*given, "pydantic", "pydantic_core"}


def test_every_file_says_its_purpose():
    for name, tree in FILES.items():
        assert ast.get_docstring(tree), name
        assert not any(one.endswith(".*") for one in imported(name)), f"{name}: star import"


def test_only_console_prints():
    """Elsewhere a name from a file could be markup, or a code that the terminal obeys."""
    printing = re.compile(r"print|input|typer\.(echo|secho|prompt|confirm)|(\w+\.)*(stdout|stderr)\.write|console\.\w+")
    for name, tree in MODULES.items():
        if name != "console.py":
            assert "rich" not in {one.partition(".")[0] for one in imported(name)}, name
            called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
            assert not [call for call in called if printing.fullmatch(call)], f"{name}: use hybrid_pruning.console"


def test_the_public_names_are_there_once_and_loaded_late():
    """A verb of the command line is a function of the package, found where it is defined; type checkers find it too."""
    imports = (node for node in ast.walk(FILES["__init__.py"]) if isinstance(node, ast.ImportFrom))
    checked = {alias.name: node.module for node in imports for alias in node.names}
    places = {name: f"{PACKAGE}.{place}" for name, place in hybrid_pruning._PLACES.items()}
    assert checked.items() >= {**places, "metrics": PACKAGE, "pruning": PACKAGE}.items()
    for public in hybrid_pruning.__all__:
        assert hasattr(hybrid_pruning, public), public
    program = "import sys, hybrid_pruning.cli; sys.exit(bool({'torch', 'numpy', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
