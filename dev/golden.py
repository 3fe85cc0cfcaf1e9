"""Golden results at a fixed seed, to prove that a refactoring changes nothing that a user can observe.

    python dev/golden.py make golden.json       before the first change
    python dev/golden.py check golden.json      after every step; on the same machine and libraries: bit for bit

Trains, exports, scores, calibrates and evaluates tiny models by the command line alone, in a temporary folder; compares
losses, digests of weights, score files (torch, ONNX, 8 bits), figures, whole jobs, option names and public names.
"""

import contextlib
import hashlib
import io
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", COLUMNS="200", NO_COLOR="1", TERM="dumb")

import numpy as np
import soundfile
import torch
import typer
import yaml
from safetensors.numpy import load_file
from transformers import WavLMConfig, WavLMModel, WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

import hybrid_pruning
from hybrid_pruning.cli import app, main

RATE = 16_000
WAVLM = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": (12, 16, 12, 16),
    "conv_kernel": (10, 3, 3, 2),
    "conv_stride": (5, 2, 2, 2),
    "num_feat_extract_layers": 4,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "hidden_dropout": 0.1,
}
WHISPER = {
    "d_model": 32,
    "encoder_layers": 3,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "num_mel_bins": 8,
    "max_source_positions": 64,
}
RECIPE: dict[str, Any] = {
    "data": {"train": "train.tsv", "dev": "dev.tsv", "crop_seconds": 0.05, "workers": 0},
    "backbone": {"source": "wavlm"},
    "head": {"heads": 4, "compression": 8, "embedding": 16},
    "training": {"epochs": 2, "batch_size": 8, "lr": 2e-3, "final_lr": 1e-3, "lr_warmup_epochs": 1, "log_every": 1},
    "pruning": {"use_pruning_loss": True, "target_sparsity": 0.4, "initial_reg_lr": 0.1, "macs_seconds": 0.5},
}
SPEAKERS = {
    "task": "speaker-verification",
    "data": {"train": "voices/train.tsv", "dev": "voices/dev.tsv", "trials": {"dev": "voices/dev.trials"}},
    "objective": {"kind": "aam", "scale": 16, "margin": 0.1},
}
STAGES = {"stages": {"head": {"backbone": {"frozen": True}, "pruning": {"use_pruning_loss": False}}, "joint": {}}}
TIMES = re.compile("second|pace|per_s|time|version|memory|host|date|commit|platform|machine|python")
"""Keys of a log or a table that differ between two equal runs."""


def write_world(folder: Path) -> None:
    """Write encoders, clips of tones, protocols and recipes below a folder."""
    torch.manual_seed(0)
    WavLMModel(WavLMConfig(**WAVLM)).save_pretrained(folder / "wavlm")
    WhisperEncoder(WhisperConfig(**WHISPER)).save_pretrained(folder / "whisper")
    for part, clips, seed in (("train", 24, 1), ("dev", 10, 2), ("eval", 10, 3)):
        lines = ["utt_id\tpath\tlabel\tattack\tspeaker\n"]
        for index in range(clips):
            spoof = index % 2
            path = write_clip(folder / part / f"{index:02d}.flac", 0.2 if spoof else 0.7, 100 * seed + index)
            attack = f"A0{1 + index % 4}" if spoof else "-"
            lines.append(f"{part}-{index:02d}\t{path}\t{('bonafide', 'spoof')[spoof]}\t{attack}\tS{index // 4}\n")
        (folder / f"{part}.tsv").write_text("".join(lines))
    for part, speakers in (("train", range(6)), ("dev", range(10, 14))):
        names = [f"s{speaker:02d}/{clip}" for speaker in speakers for clip in range(5)]
        for place, name in enumerate(names):
            write_clip(folder / "voices" / f"{name}.wav", 0.1 + 0.1 * int(name[1:3]), place)
        rows = [f"{name}\t{name}.wav\tbonafide\t{name[:3]}\n" for name in names]
        (folder / "voices" / f"{part}.tsv").write_text("utt_id\tpath\tlabel\tspeaker\n" + "".join(rows))
        pairs = [f"{int(a[:3] == b[:3])} {a} {b}\n" for a, b in combinations(names, 2)]
        (folder / "voices" / f"{part}.trials").write_text("".join(pairs))
    write_asvspoof5(folder / "m1" / "asvspoof5")  # below the manifests, whose paths are then relative
    write_voxceleb(folder / "m2" / "voxceleb")
    detect = {"corpus": {"name": "asvspoof5", "root": "m1/asvspoof5"}, "data": manifests("m1", {"eval": "eval"})}
    verify = {"corpus": {"name": "voxceleb", "root": "m2/voxceleb"}, "data": manifests("m2", {"vox1-O": "vox1"})}
    verify["data"]["trials"] = {name: f"m2/{name}.trials" for name in ("dev", "vox1-O")}
    recipes = {
        "dense": {"pruning": {"use_pruning_loss": False}},
        "gated": {"pruning": {"export_at": [0.2], "sparsity_warmup_epochs": 1}},
        "staged": STAGES,
        "macs": {"backbone": {"source": "whisper"}, "pruning": {"constraint": "macs"}},
        "speakers": SPEAKERS,
        "job-detection": detect,
        "job-verification": merge(SPEAKERS, verify),
    }
    for name, changes in recipes.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(merge(RECIPE, changes)))


def manifests(folder: str, evals: dict[str, str]) -> dict[str, Any]:
    """Return the data section of a job whose manifests are made in a folder."""
    paths = {name: f"{folder}/{manifest}.tsv" for name, manifest in evals.items()}
    return {"train": f"{folder}/train.tsv", "dev": f"{folder}/dev.tsv", "eval": paths}


def merge(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return a tree of settings with another's values over it."""
    merged = dict(one)
    for key, value in other.items():
        merged[key] = merge(merged[key], value) if isinstance(value, dict) and key in merged else value
    return merged


def write_clip(path: Path, pitch: float, seed: int) -> str:
    """Write noise and two tones that belong to a pitch, 0.1 to 0.25 s, and return its path relative to the world."""
    rng = np.random.default_rng(seed)
    samples = int(rng.integers(1600, 4000))
    path.parent.mkdir(parents=True, exist_ok=True)
    tones = np.random.default_rng(round(7919 * pitch)).uniform(0.1, 1.5, 2)
    wave = 0.2 * np.sin(np.outer(tones, np.arange(samples))).sum(axis=0) + 0.1 * rng.standard_normal(samples)
    soundfile.write(path, wave, RATE)
    return f"{path.parent.name}/{path.name}"


def write_asvspoof5(root: Path) -> None:
    """Write a corpus in ASVspoof 5's layout."""
    parts = {"T": ("flac_T", "train"), "D": ("flac_D", "dev.track_1"), "E": ("flac_E_eval", "eval.track_1")}
    for letter, (folder, protocol) in parts.items():
        lines = []
        for index in range(16):
            name, spoof = f"{letter}_{index:010d}", index % 2
            write_clip(root / folder / f"{name}.flac", 0.2 if spoof else 0.7, 1000 * ord(letter) + index)
            attack, key = (f"A{1 + index % 4:02d}", "spoof") if spoof else ("-", "bonafide")
            lines.append(f"{letter}_{index // 4:04d} {name} F - - - AC1 {attack} {key} -\n")
        (root / f"ASVspoof5.{protocol}.tsv").write_text("".join(lines))


def write_voxceleb(root: Path) -> None:
    """Write a corpus in VoxCeleb's layout, with the list O."""
    parts = {"vox2/dev/wav": range(20, 26), "vox2/test/wav": range(50, 54), "vox1/test/wav": range(10270, 10275)}
    for part, speakers in parts.items():
        names = [f"id{speaker:05d}/video/{clip:05d}.wav" for speaker in speakers for clip in range(4)]
        for place, name in enumerate(names):
            write_clip(root / part / name, 0.1 + 0.1 * (int(name[2:7]) % 13), place)
    pairs = [f"{int(a[:7] == b[:7])} {a} {b}\n" for a, b in combinations(names, 2)]
    (root / "veri_test2.txt").write_text("".join(pairs))


COMMANDS = """
train dense.yaml --out r/dense
train gated.yaml --out r/gated
train staged.yaml --out r/staged
train macs.yaml --out r/macs
train speakers.yaml --out r/speakers
export r/dense --out m/dense
export r/gated --out m/gated
export r/gated --out m/early --at 0.2
export r/staged --out m/staged
export r/macs --out m/macs
export r/speakers --out m/speakers
score m/gated dev.tsv --out s/dev.tsv
score m/gated eval.tsv --out s/gated.tsv
score m/macs eval.tsv --out s/macs.tsv
calibrate m/gated s/dev.tsv dev.tsv --out m/calibrated
export m/calibrated --out m/onnx --onnx
export m/calibrated --out m/int8 --onnx --int8
export m/macs --out m/whisper-onnx --onnx
score m/calibrated eval.tsv --out s/calibrated.tsv
score m/onnx eval.tsv --out s/onnx.tsv
score m/int8 eval.tsv --out s/int8.tsv
score m/whisper-onnx eval.tsv --out s/whisper-onnx.tsv --window-seconds 1
evaluate s/calibrated.tsv eval.tsv --track1 --bootstrap 50 --by attack --json j/track1.json
fuse s/gated.tsv s/macs.tsv --keys eval.tsv --out j/fusion.json
fuse s/gated.tsv s/macs.tsv --apply j/fusion.json --out s/fused.tsv
cohort m/speakers voices/train.tsv --top-n 3
score m/speakers voices/train.tsv --trials voices/train.trials --qualities --out s/trials.tsv
calibrate m/speakers s/trials.tsv voices/train.trials
score m/speakers voices/dev.tsv --trials voices/dev.trials --out s/llr.tsv
evaluate s/llr.tsv voices/dev.trials --sv --json j/sv.json
export m/speakers --out m/speakers-onnx --onnx
score m/speakers-onnx voices/dev.tsv --trials voices/dev.trials --out s/speakers-onnx.tsv
detect dev/00.flac dev/01.flac --model m/calibrated --json
verify voices/s10/0.wav voices/s10/1.wav voices/s10/2.wav --model m/speakers --json
inspect m/gated
convert m/dense --to transformers --zero-pad --out m/plain
run job-detection.yaml --out jobs/detection
run job-verification.yaml --out jobs/verification
"""


def results() -> dict[str, Any]:
    """Return everything that is compared, by name, from a world made in the current folder."""
    write_world(Path())
    found: dict[str, Any] = {
        "public names": sorted(hybrid_pruning.__all__),
        **dict(options()),
    }
    for line in filter(None, COMMANDS.splitlines()):
        sys.stderr.write(f"{line}\n")
        code, printed = run(line.split())
        if code:
            raise SystemExit(f"{line}: exit code {code}\n{printed}")
        if "--json" in line.split()[-1:]:
            found[f"printed: {line}"] = [without_times(json.loads(text)) for text in printed.splitlines()]
    for path in sorted(Path().rglob("*")):
        content = digest(path)
        if content is not None and path.parts[0] in ("r", "m", "s", "j", "jobs", "m1", "m2"):
            found[path.as_posix()] = content
    return found


def options() -> Iterator[tuple[str, list[str]]]:
    """Yield each verb's name with its arguments and options."""
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        yield f"options: {name}", sorted(text for parameter in command.params for text in parameter.opts)


def run(arguments: list[str]) -> tuple[int, str]:
    """Run a command in this process and return its exit code and what it printed."""
    sys.argv = ["hybrid-pruning", *arguments]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            main()
        except SystemExit as stop:
            return int(stop.code or 0), out.getvalue() + err.getvalue() * bool(stop.code)
    return 0, out.getvalue()


def digest(path: Path) -> Any:
    """Return what of a file is compared: figures as they are, weights and tables by digest; None for anything else."""
    if path.suffix == ".safetensors":
        tensors = load_file(path)
        return hashed(b"".join(name.encode() + tensors[name].tobytes() for name in sorted(tensors)))
    if path.name == "log.jsonl":
        return [without_times(json.loads(line)) for line in path.read_text().splitlines()]
    if path.suffix == ".json" and path.parent.name not in ("stages", "plain"):
        return without_times(json.loads(path.read_text()))
    if path.suffix in (".tsv", ".trials") and "partial" not in str(path) and path.name[0] != ".":
        return hashed(path.read_bytes())
    return None


def hashed(content: bytes) -> str:
    """Return a digest in short."""
    return hashlib.sha256(content).hexdigest()[:16]


def without_times(tree: Any) -> Any:
    """Return plain values without those that differ between two equal runs."""
    if isinstance(tree, dict):
        return {key: without_times(value) for key, value in tree.items() if not TIMES.search(key)}
    return [without_times(value) for value in tree] if isinstance(tree, list) else tree


def differences(one: Any, other: Any, where: str) -> Iterator[str]:
    """Yield a line for each value that differs."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in [*one, *(key for key in other if key not in one)]:
            if key not in one or key not in other:
                yield f"{where}/{key}: {'missing' if key in one else 'new'}"
            else:
                yield from differences(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for place, (a, b) in enumerate(zip(one, other, strict=True)):
            yield from differences(a, b, f"{where}[{place}]")
    elif one != other:
        yield f"{where}: was {json.dumps(one)[:120]}, is {json.dumps(other)[:120]}"


if __name__ == "__main__":
    verb, golden = sys.argv[1], Path(sys.argv[2]).absolute()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as world, contextlib.chdir(world):
        found = json.loads(json.dumps(results()))
    if verb == "make":
        golden.write_text(json.dumps(found, indent=1))
        sys.stdout.write(f"{golden}: {len(found)} results\n")
    else:
        lines = list(differences(json.loads(golden.read_text()), found, ""))
        sys.stdout.write("".join(f"{line}\n" for line in lines[:100]) + f"{len(found)} results, {len(lines)} differ\n")
        raise SystemExit(bool(lines))
