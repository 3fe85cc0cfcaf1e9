"""The quickstart: real speech, two trainings of equal length (dense, pruned to half), two exports, one table."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from hybrid_pruning.benchmarks.latency import latency_ratio
from hybrid_pruning.benchmarks.timing import Ratio
from hybrid_pruning.config import Config, load_config
from hybrid_pruning.console import Table, say, say_rule, say_table
from hybrid_pruning.errors import InputError
from hybrid_pruning.evaluation import evaluate_track1
from hybrid_pruning.files import atomic_write, hold, is_vacant, write_json
from hybrid_pruning.jobs.quickstart.speech import QuickstartCorpus, build
from hybrid_pruning.models.size import count_kept
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.reporting import write_report
from hybrid_pruning.scoring.scores import score_file
from hybrid_pruning.training.export import export_run
from hybrid_pruning.training.launch import train

RESULTS, REPORT = "quickstart.json", "report.html"
EVALUATIONS = {"seen attacks": "eval_seen", "unseen attack": "eval_unseen"}
SYSTEMS: dict[str, tuple[str, ...]] = {"dense": ("pruning.use_pruning_loss=false",), "pruned": ()}


@dataclass(frozen=True, slots=True)
class System:
    """One trained, exported and scored model of the quickstart.

    Args:
        model: the exported model.
        metrics: evaluation set -> track-1 metrics.
    """

    model: SpeechModel
    metrics: Mapping[str, Mapping[str, float]]


def run_quickstart(
    out: Path, bonafide: Path | None = None, backbone: str | None = None, overrides: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Build the corpus, train and score both systems, write the report and print the table.

    Args:
        out: a folder of its own; what an earlier quickstart left there is replaced.
        bonafide: a folder of recordings to use instead of Debian's packages.
        backbone: a pretrained encoder (hub id or folder) instead of the small one from scratch.
        overrides: ``a.b=c`` settings over the recipe.

    Returns:
        The figures of the table, as written to quickstart.json.

    Raises:
        InputError: recordings, folder or encoder that cannot be used.
    """
    with hold(out):
        return _run(out, bonafide, backbone, overrides)


def _run(out: Path, bonafide: Path | None, backbone: str | None, overrides: tuple[str, ...]) -> dict[str, Any]:
    _claim(out)
    corpus = build(cache_folder(), bonafide)
    _describe(corpus, backbone)
    settings = (*_sources(out, corpus, backbone), *overrides)
    with resources.as_file(resources.files("hybrid_pruning.jobs.quickstart") / "recipe.yaml") as recipe:
        configs = {name: load_config(recipe, (*settings, *switch)) for name, switch in SYSTEMS.items()}
    systems = {name: _build_system(name, config, out, corpus) for name, config in configs.items()}
    figures = _figures(systems)
    write_json(out / RESULTS, figures)
    _write_report(out, corpus)
    _print_results(figures, out)
    return figures


def cache_folder() -> Path:
    """Return where downloads and clips are kept between runs: $XDG_CACHE_HOME/hybrid-pruning, or ~/.cache's."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hybrid-pruning"


def _claim(out: Path) -> None:
    """Clear what an earlier quickstart left, and nothing else."""
    if out.is_dir() and not is_vacant(out) and not (out / "encoder").is_dir():
        raise InputError(f"{out}: holds something other than a quickstart; give another folder with --out")
    for name in (*SYSTEMS, "models", "scores"):
        shutil.rmtree(out / name, ignore_errors=True)
    for name in (RESULTS, REPORT):
        (out / name).unlink(missing_ok=True)
    (out / "encoder").mkdir(parents=True, exist_ok=True)


def _sources(out: Path, corpus: QuickstartCorpus, backbone: str | None) -> tuple[str, ...]:
    """The settings that point the recipe at data and encoder; the encoder's architecture is written beside the runs."""
    data = (f"data.train={json.dumps(str(corpus.train))}", f"data.dev={json.dumps(str(corpus.dev))}")
    if backbone is not None:
        return (*data, f"backbone.source={json.dumps(backbone)}", "backbone.random=false", *PRETRAINED)
    with atomic_write(out / "encoder" / "config.json") as handle:
        handle.write((resources.files("hybrid_pruning.jobs.quickstart") / "encoder.json").read_text(encoding="utf-8"))
    write_json(out / "encoder" / "preprocessor_config.json", {"do_normalize": True})
    return (*data, f"backbone.source={json.dumps(str(out / 'encoder'))}")


PRETRAINED = ("training.lr=5.0e-4", "training.final_lr=5.0e-5", "training.backbone_lr_ratio=0.05")


def _describe(corpus: QuickstartCorpus, backbone: str | None) -> None:
    for name, counts in corpus.counts.items():
        say(f"{name:<12} {counts['bonafide']:>5} bona fide {counts['spoof']:>5} spoofed clips")
    if backbone is None:
        say("The encoder is small and starts from scratch: this shows the method at work, not its best figures.")


def _build_system(name: str, config: Config, out: Path, corpus: QuickstartCorpus) -> System:
    say_rule(f"{name}: train, export, score")
    run, model = out / name, out / "models" / name
    train(config, run)
    small = export_run(run, model)
    metrics = {}
    for title, manifest in EVALUATIONS.items():
        scores = _scores(out, name, manifest)
        score_file(small, getattr(corpus, manifest), scores, config.training.batch_size, config.data.workers)
        metrics[title] = evaluate_track1(scores, getattr(corpus, manifest))
    return System(small, metrics)


def _scores(out: Path, system: str, manifest: str) -> Path:
    return out / "scores" / f"{system}-{manifest}.tsv"


def _write_report(out: Path, corpus: QuickstartCorpus) -> None:
    pairs = [(_scores(out, system, manifest), manifest) for manifest in EVALUATIONS.values() for system in SYSTEMS]
    write_report(
        [out / system for system in SYSTEMS],
        out / REPORT,
        [f"{scores}" for scores, _ in pairs],
        [getattr(corpus, manifest) for _, manifest in pairs],
    )


def _figures(systems: Mapping[str, System]) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for name, system in systems.items():
        size = count_kept(system.model.backbone).budget
        figures[name] = {"params": size.params, "macs": size.macs, **system.metrics}
    latency = latency_ratio(systems["pruned"].model, systems["dense"].model)
    figures["latency_ratio"] = asdict(latency)
    return figures


def _print_results(figures: Mapping[str, Any], out: Path) -> None:
    dense, pruned = figures["dense"], figures["pruned"]
    rows = [
        ("backbone parameters", *(f"{system['params'] / 1e3:.0f}k" for system in (dense, pruned))),
        ("backbone MACs for 4 s", *(f"{system['macs'] / 1e6:.0f}M" for system in (dense, pruned))),
        ("latency, of the dense", "1.00", str(Ratio(**figures["latency_ratio"]))),
    ]
    for title in EVALUATIONS:
        rows.append((f"EER %, {title}", *(f"{100 * system[title]['eer']:.2f}" for system in (dense, pruned))))
        rows.append((f"minDCF, {title}", *(f"{system[title]['min_dcf']:.3f}" for system in (dense, pruned))))
    say_table(Table(("", *SYSTEMS), rows, "The same training, twice"))
    for line in _NEXT.splitlines():
        say(line.format(out=out, report=out / REPORT))


_NEXT = """Both runs on one page, with curves, intervals and what survived; open it in a browser:
  {report}
The same of one model, here:
  hybrid-pruning inspect {out}/models/pruned
The same on ASVspoof 5, once its archives are unpacked:
  hybrid-pruning prepare asvspoof5 --root /data/ASVspoof5 --out manifests/asvspoof5
  hybrid-pruning train recipes/asvspoof5/hp50.yaml --out runs/hp50
  hybrid-pruning export runs/hp50 --out models/hp50
  hybrid-pruning score models/hp50 manifests/asvspoof5/eval.tsv --out scores.tsv
  hybrid-pruning evaluate scores.tsv manifests/asvspoof5/eval.tsv --track1"""
