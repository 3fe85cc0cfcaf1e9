"""`quickstart`: real speech, two trainings of equal length (dense, pruned to half), two exports, one table."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

from hybrid_pruning.benchmarks.comparison import Ratio, latency_ratio
from hybrid_pruning.config import Config, load_config
from hybrid_pruning.console import Table, say, say_rule, say_table
from hybrid_pruning.errors import InputError
from hybrid_pruning.evaluation import evaluate
from hybrid_pruning.files import atomic_write, hold, is_vacant, write_json
from hybrid_pruning.jobs.synthetic_corpus import QuickstartCorpus, build
from hybrid_pruning.models.size import count_kept
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.reporting import report
from hybrid_pruning.scoring.scores import score
from hybrid_pruning.training.export import export
from hybrid_pruning.training.launch import train

RESULTS, REPORT = "quickstart.json", "report.html"
EVALUATIONS = {"seen attacks": "eval_seen", "unseen attack": "eval_unseen"}
SYSTEMS: dict[str, tuple[str, ...]] = {"dense": ("pruning.use_pruning_loss=false",), "pruned": ()}
PRETRAINED = ("training.lr=5.0e-4", "training.final_lr=5.0e-5", "training.backbone_lr_ratio=0.05")
NEXT = """Both runs on one page, with curves, intervals and kept units; open it in a browser:
  {report}
The same of one model, here:
  hybrid-pruning inspect {out}/models/pruned
The same on ASVspoof 5, once its archives are unpacked:
  hybrid-pruning prepare asvspoof5 --root /data/ASVspoof5 --out manifests/asvspoof5
  hybrid-pruning train recipes/asvspoof5/hp50.yaml --out runs/hp50
  hybrid-pruning export runs/hp50 --out models/hp50
  hybrid-pruning score models/hp50 manifests/asvspoof5/eval.tsv --out scores.tsv
  hybrid-pruning evaluate scores.tsv manifests/asvspoof5/eval.tsv --track1"""


def quickstart(
    out: str | Path = "quickstart",
    bonafide: str | Path | None = None,
    backbone: str | None = None,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Build a corpus, train and score a dense and a pruned detector, report on them and return quickstart.json.

    Downloads and clips are kept between calls in $XDG_CACHE_HOME/hybrid-pruning, or ~/.cache/hybrid-pruning.

    Args:
        out: a folder of its own; the results of an earlier quickstart there are replaced.
        bonafide: a folder of recordings to use instead of Debian's packages.
        backbone: a pretrained encoder (hub id or folder) instead of the small one from scratch.
        overrides: `key=value` settings over the recipe.
    """
    out = Path(out)
    with hold(out):
        _clear(out)
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hybrid-pruning"
        corpus = build(cache, None if bonafide is None else Path(bonafide))
        for name, counts in corpus.counts.items():
            say(f"{name:<12} {counts['bonafide']:>5} bona fide {counts['spoof']:>5} spoofed clips")
        if backbone is None:
            say("The encoder is small and starts from scratch: this shows the method at work, not its best figures.")
        settings = (*_sources(out, corpus, backbone), *overrides)
        with resources.as_file(resources.files("hybrid_pruning.jobs") / "quickstart.yaml") as recipe:
            configs = {name: load_config(recipe, (*settings, *switch)) for name, switch in SYSTEMS.items()}
        built = {name: _build_system(name, config, out, corpus) for name, config in configs.items()}
        figures: dict[str, Any] = {name: system for name, (_, system) in built.items()}
        figures["latency_ratio"] = asdict(latency_ratio(built["pruned"][0], built["dense"][0]))
        write_json(out / RESULTS, figures)
        pairs = [(name, manifest) for manifest in EVALUATIONS.values() for name in SYSTEMS]
        scores = [str(_scores(out, *pair)) for pair in pairs]
        report([out / name for name in SYSTEMS], out / REPORT, scores, [corpus.manifests[key] for _, key in pairs])
        _print_results(figures, out)
    return figures


def _clear(out: Path) -> None:
    """Remove the results of an earlier quickstart, and nothing else."""
    if out.is_dir() and not is_vacant(out) and not (out / "encoder").is_dir():
        raise InputError(f"{out}: holds something other than a quickstart; give another folder with --out")
    for name in (*SYSTEMS, "models", "scores"):
        shutil.rmtree(out / name, ignore_errors=True)
    for name in (RESULTS, REPORT):
        (out / name).unlink(missing_ok=True)
    (out / "encoder").mkdir(parents=True, exist_ok=True)


def _sources(out: Path, corpus: QuickstartCorpus, backbone: str | None) -> tuple[str, ...]:
    """Return settings that point the recipe at data and encoder; write the small encoder's architecture below `out`."""
    data = [f"data.{part}={json.dumps(str(corpus.manifests[part]))}" for part in ("train", "dev")]
    if backbone is not None:
        return (*data, f"backbone.source={json.dumps(backbone)}", "backbone.random=false", *PRETRAINED)
    encoder = out / "encoder"
    with atomic_write(encoder / "config.json") as handle:
        handle.write((resources.files("hybrid_pruning.jobs") / "quickstart_encoder.json").read_text(encoding="utf-8"))
    write_json(encoder / "preprocessor_config.json", {"do_normalize": True})
    return (*data, f"backbone.source={json.dumps(str(encoder))}")


def _build_system(
    name: str, config: Config, out: Path, corpus: QuickstartCorpus
) -> tuple[SpeechModel, dict[str, object]]:
    """Train, export and score one system; return its model, and its size and track-1 metrics by evaluation set."""
    say_rule(f"{name}: train, export, score")
    train(config, out / name)
    model = export(out / name, out / "models" / name)
    size = count_kept(model.backbone).budget
    figures: dict[str, object] = {"params": size.params, "macs": size.macs}
    for title, manifest in EVALUATIONS.items():
        scores, keys = _scores(out, name, manifest), corpus.manifests[manifest]
        score(model, keys, scores, config.training.batch_size, config.data.workers)
        figures[title] = evaluate(scores, keys, "track1").metrics
    return model, figures


def _scores(out: Path, system: str, manifest: str) -> Path:
    return out / "scores" / f"{system}-{manifest}.tsv"


def _print_results(figures: Mapping[str, Any], out: Path) -> None:
    systems = [figures[name] for name in SYSTEMS]
    rows = [
        ("backbone parameters", *(f"{system['params'] / 1e3:.0f}k" for system in systems)),
        ("backbone MACs for 4 s", *(f"{system['macs'] / 1e6:.0f}M" for system in systems)),
        ("latency, of the dense", "1.00", str(Ratio(**figures["latency_ratio"]))),
    ]
    for title in EVALUATIONS:
        rows.append((f"EER %, {title}", *(f"{100 * system[title]['eer']:.2f}" for system in systems)))
        rows.append((f"minDCF, {title}", *(f"{system[title]['min_dcf']:.3f}" for system in systems)))
    say_table(Table(("", *SYSTEMS), rows, "The same training, twice"))
    for line in NEXT.splitlines():
        say(line.format(out=out, report=out / REPORT))
