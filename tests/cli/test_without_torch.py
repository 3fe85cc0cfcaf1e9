"""A base installation has no torch: its verbs run there, and the others name the extra that they need, in one line."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import urllib.request
import venv
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from encoders import Once
from exports import export_detector, export_ragged, export_verifier
from hybrid_pruning import extras
from hybrid_pruning.data.manifest import read_manifest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import contextlib, importlib.machinery, io, json, sys, warnings
absent = set(sys.argv[1].split(","))

class Installed(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in absent else super().find_spec(name, path, target)

sys.meta_path = [Installed if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]

import hybrid_pruning as hp
from hybrid_pruning.cli import main

found = {}
for command in json.loads(sys.stdin.read()):
    sys.argv[1:] = command.split()
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            main()
        except SystemExit as end:
            found[command] = end.code or 0, out.getvalue(), err.getvalue()
"""
SERVING = """
import pathlib
from starlette.testclient import TestClient
from hybrid_pruning.serving import application, server, served, service

models = [served.Served.load(name, name, 30.0) for name in ("both", "graph")]
with TestClient(application.build_app(service.Service(models)), base_url="http://localhost") as client:
    with open("speakers/id00000/00.wav", "rb") as file:
        answer = client.post("/v1/detect", content=file.read())
embedded = hp.embed("graph", "speakers/manifest.tsv", "e.safetensors")
open_files = [str(path.resolve()) for path in pathlib.Path("/proc/self/fd").glob("*")]
found["telemetry"] = 2 * any("onnxruntime.db" in name for name in open_files), "", ""
found["served"] = answer.status_code, answer.text, str(len(embedded.ids))
"""
TRAINING = "torch,transformers,tokenizers,onnx,onnxscript,openvino,tensorboard"
HELP = ("--help", *(f"{verb} --help" for verb in ("quickstart", "run", "sweep", "train", "export", "serve", "doctor")))
RUNNING = (
    "detect dev --model onnx --json",
    "detect dev --model both",
    "score onnx dev/manifest.tsv --out s.tsv",
    "score graph speakers/manifest.tsv --trials speakers/trials --out t.tsv",
    "cohort mc speakers/manifest.tsv --help",
    "embed onnx dev/manifest.tsv --out e.ark --picture e.png",
    "verify speakers/id00000/00.wav speakers/id00000/01.wav --model graph",
    "evaluate s.tsv dev/manifest.tsv --track1 --bootstrap 40 --det det.svg",
    "evaluate t.tsv speakers/trials --sv",
    "calibrate both good.tsv dev/manifest.tsv --out calibrated",
    "fuse good.tsv --keys dev/manifest.tsv --out fusion.json",
    "fuse good.tsv --apply fusion.json --out fused.tsv",
    "report run --scores scores.tsv --keys dev/manifest.tsv --bootstrap 0 --out report.html",
    "audit dev/manifest.tsv",
    "doctor",
    *HELP,
)
REFUSED = (
    "train recipe.yaml --out new",
    "export run --out new",
    "inspect model",
    "detect dev --model model",
    "score model dev/manifest.tsv --out new.tsv",
    "benchmark model",
    "card model",
    "convert model --out new",
    "probe model dev/manifest.tsv dev/manifest.tsv",
    "quickstart",
    "run recipe.yaml --out new",
    "sweep recipe.yaml --sparsity 0.5 --out new",
)


def run_without(
    absent: str, commands: tuple[str, ...], folder: Path, more: str = ""
) -> dict[str, tuple[int, str, str]]:
    """Run commands in one process that lacks some packages, and return exit code, output and errors of each."""
    program = f"{PROGRAM}{more}\nprint(json.dumps(found))\nassert not absent & set(sys.modules)"
    arguments = [sys.executable, "-W", "error", "-c", program, absent]
    done = subprocess.run(
        arguments, input=json.dumps(commands), cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return {command: tuple(parts) for command, parts in json.loads(done.stdout).items()}


@pytest.fixture(scope="module")
def folder(once: Once, pristine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world with a run, its model as weights alone in model/, and models with .onnx files: onnx/, both/, graph/."""
    folder = tmp_path_factory.mktemp("base") / "world"
    shutil.copytree(export_verifier(once, pristine), folder)
    shutil.copytree(export_detector(once) / "onnx", folder / "onnx")
    shutil.copytree(export_ragged(once, "wavlm", "base"), folder / "both")
    utterances = read_manifest(folder / "dev" / "manifest.tsv")
    lines = [f"{one.utt_id}\t{(one.label == 'bonafide') + 1.5 * (place % 3)}" for place, one in enumerate(utterances)]
    (folder / "good.tsv").write_text("\n".join(["filename\tcm-score", *lines, ""]))
    return folder


def test_the_verbs_of_a_base_installation_run_without_torch(folder: Path):
    found = run_without(TRAINING, RUNNING, folder, SERVING)
    assert {command: parts for command, parts in found.items() if parts[0] not in (0, 200)} == {}
    assert len(found["detect dev --model both"][1].splitlines()) == 8
    assert json.loads(found["served"][1])["verdict"] in ("bonafide", "spoof")
    assert found["served"][2] == "6"
    assert re.search(r"^torch +absent .*pip install \"hybrid-pruning\[train\]\"", found["doctor"][1], re.MULTILINE)
    page = (folder / "report.html").read_text()
    assert "Not counted: torch is not installed; it comes with" in page
    assert "EER" in page


def test_what_needs_torch_says_so_in_one_line(folder: Path):
    found = run_without(TRAINING, REFUSED, folder)
    line = 'hybrid-pruning: torch is not installed; it comes with: pip install "hybrid-pruning[train]"\n'
    other = line.replace("torch", "transformers", 1)
    assert {command: parts for command, parts in found.items() if parts[0] != 2 or parts[2] not in (line, other)} == {}


def test_what_needs_another_extra_says_so(folder: Path):
    served = run_without("fastapi", ("serve onnx",), folder)["serve onnx"]
    assert served == (
        2,
        "",
        'hybrid-pruning: fastapi is not installed; it comes with: pip install "hybrid-pruning[serve]"\n',
    )
    served = run_without("websockets", ("serve onnx",), folder)["serve onnx"]
    assert served[2].startswith("hybrid-pruning: websockets is not installed")


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_the_wheel_runs_models_where_torch_was_never_installed(folder: Path, tmp_path: Path):
    """It downloads what the base needs into an environment of its own."""

    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*arguments: object) -> str:
        command = [*map(str, arguments)]
        done = subprocess.run(command, cwd=folder, env=alone, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "env", with_pip=True)
    scripts = tmp_path / "env" / ("Scripts" if sys.platform == "win32" else "bin")
    run(scripts / "python", "-m", "pip", "install", "--quiet", f"{wheel}[serve]")
    listed = json.loads(run(scripts / "python", "-m", "pip", "list", "--format", "json"))
    assert not {one["name"] for one in listed} & {"torch", "transformers", "onnx"}
    program = scripts / "hybrid-pruning"
    assert len(run(program, "detect", "dev", "--model", "onnx", "--json").splitlines()) == 8
    run(program, "verify", *("speakers/id00000/00.wav", "speakers/id00000/01.wav"), "--model", "graph")
    run(program, "score", "onnx", "dev/manifest.tsv", "--out", tmp_path / "s.tsv")
    assert "EER" in run(program, "evaluate", tmp_path / "s.tsv", "dev/manifest.tsv", "--track1")
    run(program, "report", "run", "--out", tmp_path / "report.html", "--bootstrap", "0")
    command = [program, "serve", "onnx", "--port", "0"]
    with subprocess.Popen(command, cwd=folder, env=alone, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        address = server.stdout.readline().decode().split()[0]
        clip = (folder / "speakers" / "id00000" / "00.wav").read_bytes()
        try:
            with urllib.request.urlopen(f"{address}/v1/detect", clip) as answer:
                assert json.load(answer)["verdict"] in ("bonafide", "spoof")
        finally:
            server.terminate()


def test_every_extra_is_one_of_the_package():
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    packages = {
        name: {Requirement(line).name.replace("-", "_") for line in lines}
        for name, lines in project["optional-dependencies"].items()
    }
    named = {"pyworld": "pyworld_prebuilt", "G722": "g722", "starlette": "fastapi"}
    for module, extra in extras.EXTRAS.items():
        assert named.get(module, module) in packages[extra], module
    base = {Requirement(line).name for line in project["dependencies"]}
    assert not base & set(extras.EXTRAS)
