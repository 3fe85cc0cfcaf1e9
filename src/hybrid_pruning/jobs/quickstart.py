"""`quickstart`: real speech, one encoder trained dense and pruned in equal steps, one table, verdicts on files."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

from hybrid_pruning.audio import audio_samples
from hybrid_pruning.benchmarks.comparison import latency_ratio
from hybrid_pruning.benchmarks.timing import Ratio
from hybrid_pruning.config import Config, load_config, save_config
from hybrid_pruning.console import Table, say, say_rule, say_table, takes_blocks, warn
from hybrid_pruning.data.manifest import read_manifest
from hybrid_pruning.errors import InputError
from hybrid_pruning.evaluation import evaluate
from hybrid_pruning.evaluation.fitting import UncalibratableError, calibrate
from hybrid_pruning.files import hold, is_vacant, write_json
from hybrid_pruning.jobs.grid import name_size, pruning_to, set_values
from hybrid_pruning.jobs.synthetic_corpus import QuickstartCorpus, build
from hybrid_pruning.models.size import count_kept
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.reporting import report
from hybrid_pruning.reporting.run_files import count
from hybrid_pruning.scoring.scores import score
from hybrid_pruning.scoring.verdicts import Unreadable, detect, find_audio
from hybrid_pruning.training.export import export
from hybrid_pruning.training.launch import train
from hybrid_pruning.training.runs import Run
from hybrid_pruning.training.shared import share_stages
from hybrid_pruning.trees import read_json

ENCODER = "whisper-tiny-encoder"
"""The pretrained encoder that comes with the package; its folder has its licence and origin."""
RECIPE, RESULTS, REPORT = "quickstart.yaml", "quickstart.json", "report.html"
EVALUATIONS = {"seen attacks": "eval_seen", "unseen attack": "eval_unseen"}
SYSTEMS = {"dense": 0.0, "hp50": 0.5, "hp70": 0.7}
"""System -> the fraction of the encoder's parameters removed."""
DETECTOR = "hp70"
"""The system that gives the verdicts."""
VERDICTS = """A verdict on a recording of yours, by any of the three models:
  hybrid-pruning detect FILE --model {out}/models/{detector}
It was trained on two vocoders, on clips cut to 0.1-6.8 kHz; of other fakes expect what the unseen attack shows."""
NEXT = """All runs on one page, with curves, intervals and kept units; open it in a browser:
  {report}
The same of one model, here:
  hybrid-pruning inspect {out}/models/{detector}
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
    *,
    files: Sequence[str | Path] = (),
    from_scratch: bool = False,
) -> dict[str, Any]:
    """Build a corpus, train and score a dense and two pruned detectors, report on them and return quickstart.json.

    Downloads and clips are kept between calls in $XDG_CACHE_HOME/hybrid-pruning, or ~/.cache/hybrid-pruning.

    Args:
        out: a folder of its own; the results of an earlier quickstart there are replaced.
        bonafide: a folder of recordings to use instead of Debian's packages.
        backbone: a pretrained encoder (hub id or folder) instead of Whisper tiny's, which comes along.
        overrides: `key=value` settings over the recipe.
        files: recordings, or folders of them, for a verdict by the smallest detector.
        from_scratch: train a small encoder from random weights.
    """
    out = Path(out)
    if from_scratch and backbone is not None:
        raise InputError("quickstart: --backbone and --from-scratch are two encoders; give one of them")
    paths = [path for file in files for path in find_audio(file)]
    for path in paths:  # a wrong file is reported at once
        audio_samples(path)
    with hold(out), resources.as_file(resources.files("hybrid_pruning.jobs")) as own:
        _clear(out)
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hybrid-pruning"
        corpus = build(cache, None if bonafide is None else Path(bonafide))
        for name, counts in corpus.counts.items():
            say(f"{name:<12} {counts['bonafide']:>5} bona fide {counts['spoof']:>5} spoofed clips")
        if from_scratch:
            say("The encoder is small and starts from scratch: this shows the method at work, not its best figures.")
            encoder, recipe = str(out / "encoder"), own / "quickstart_scratch.yaml"
            write_json(out / "encoder" / "config.json", read_json(own / "quickstart_encoder.json"))
            write_json(out / "encoder" / "preprocessor_config.json", {"do_normalize": True})
        else:
            encoder, recipe = backbone or str(own / ENCODER), own / "quickstart.yaml"
        sources = {f"data.{part}": str(corpus.manifests[part]) for part in ("train", "dev")}
        sources["backbone.source"] = encoder
        settings = [f"{key}={json.dumps(value)}" for key, value in sources.items()]
        config = load_config(recipe, (*settings, *overrides))
        save_config(config, out / RECIPE)
        figures = _compare(config, out, corpus)
        figures["verdicts"] = _judge(out / "models" / DETECTOR, paths, corpus)
        write_json(out / RESULTS, figures)
        for line in f"{VERDICTS}\n{NEXT}".splitlines():
            say(line.format(out=out, detector=DETECTOR, report=out / REPORT))
    return figures


def _clear(out: Path) -> None:
    """Remove the results of an earlier quickstart, and nothing else."""
    known = any((out / mark).exists() for mark in (RECIPE, "encoder"))
    if out.is_dir() and not is_vacant(out) and not known:
        raise InputError(f"{out}: holds something other than a quickstart; give another folder with --out")
    for name in (*SYSTEMS, "pruned", "models", "scores"):
        shutil.rmtree(out / name, ignore_errors=True)
    for name in (RESULTS, REPORT):
        (out / name).unlink(missing_ok=True)


def _compare(config: Config, out: Path, corpus: QuickstartCorpus) -> dict[str, Any]:
    """Train, export, calibrate and score all systems, and report on them; return their figures by name."""
    figures: dict[str, Any] = {}
    dense: SpeechModel | None = None
    for name, sparsity in SYSTEMS.items():
        say_rule(f"{name}: train, export, score")
        run, recipe = Run(out / name), set_values(config, pruning_to(sparsity), name_size(sparsity))
        share_stages(recipe, run, [Run(out / "dense")])  # those that the dense one begins with too
        train(recipe, run.folder, resume=run.config.exists())
        model = _export(config, out, name, corpus)
        size = count_kept(model.backbone).budget
        figures[name] = {"params": size.params, "macs": size.macs}
        if dense is None:
            dense = model
        else:
            figures[name]["latency_ratio"] = asdict(latency_ratio(model, dense))
        for title, manifest in EVALUATIONS.items():
            scores, keys = _scores(out, name, manifest), corpus.manifests[manifest]
            score(model, keys, scores, config.training.batch_size, config.data.workers)
            figures[name][title] = evaluate(scores, keys, "track1").metrics
    pairs = [(name, manifest) for manifest in EVALUATIONS.values() for name in SYSTEMS]
    tables = [str(_scores(out, *pair)) for pair in pairs]
    report([out / name for name in SYSTEMS], out / REPORT, tables, [corpus.manifests[key] for _, key in pairs])
    _print_results(figures)
    return figures


def _export(config: Config, out: Path, name: str, corpus: QuickstartCorpus) -> SpeechModel:
    """Export a system, and return it calibrated on the dev set, where its scores can be."""
    folder, scores, keys = out / "models" / name, _scores(out, name, "dev"), corpus.manifests["dev"]
    model = export(out / name, folder)
    score(model, keys, scores, config.training.batch_size, config.data.workers)
    try:
        calibrate(folder, scores, keys)
    except UncalibratableError as error:
        warn(f"the model is left uncalibrated: {error}")
        return model
    return SpeechModel.from_pretrained(folder)


def _scores(out: Path, system: str, manifest: str) -> Path:
    return out / "scores" / f"{system}-{manifest}.tsv"


def _print_results(figures: Mapping[str, Any]) -> None:
    systems = list(figures.values())
    rows = [
        ("backbone parameters", *(count(system["params"]) for system in systems)),
        ("backbone MACs for 4 s", *(count(system["macs"]) for system in systems)),
        ("latency, of the dense", "1.00", *(str(Ratio(**system["latency_ratio"])) for system in systems[1:])),
    ]
    for title in EVALUATIONS:
        rows.append((f"EER %, {title}", *(f"{100 * system[title]['eer']:.2f}" for system in systems)))
        rows.append((f"minDCF, {title}", *(f"{system[title]['min_dcf']:.3f}" for system in systems)))
    headings = ("dense" if not sparsity else f"{sparsity:.0%} removed" for sparsity in SYSTEMS.values())
    say_table(Table(("", *headings), rows, "The same training, in equal steps"))


def _judge(model: Path, files: Sequence[Path], corpus: QuickstartCorpus) -> list[dict[str, Any]]:
    """Print and return the verdicts on files, or where there are none on a held-out clip and its fake."""
    say_rule(f"verdicts by {model.name}" + ("" if files else ", on a human clip that no training had and its fake"))
    if not files:
        files = [utterance.path for utterance in read_manifest(corpus.manifests["eval_seen"])[:2]]
    detector, threshold = SpeechModel.from_pretrained(model), 0.0
    verdicts = []
    for found in detect(detector, files, workers=0):
        if isinstance(found, Unreadable):
            say(f"skipped {found.reason}")
        else:
            say(*found.text(threshold, takes_blocks()))
            verdicts.append(found.record(threshold, detector.calibration is not None))
    return verdicts
