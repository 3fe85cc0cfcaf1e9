"""Speaker verification in a job: every trial has a score, from embeddings that are made once.

A model is given its cohort first: mean and speaker means of the training data it has seen, of which the `TOP_N` closest
count in AS-norm, or all where there are fewer. The recordings of every manifest that lists of trials are about are
then embedded, once for all lists over one manifest. A score is the cosine less the mean, AS-norm, and the calibration.

Calibration is a scale and an offset alone, so that EER and minDCF are those of cosine and AS-norm, which the paper
reports. The trials' quality measures stand in the uncalibrated dev scores for `calibrate`, which may weigh them.

Source: Peng et al., "Hybrid Pruning", ICASSP 2026: the mean is subtracted, AS-norm takes the 300 closest speakers. The
public code embeds random 3 s crops of the cohort and averages them raw; here whole recordings of unit length.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from hybrid_pruning import distributed as processes
from hybrid_pruning.config import Config
from hybrid_pruning.data.keys import read_pairs
from hybrid_pruning.data.manifest import UNKNOWN, read_manifest, write_manifest
from hybrid_pruning.data.score_files import read_trials
from hybrid_pruning.data.tracks import SV
from hybrid_pruning.data.trainset import read_trainset
from hybrid_pruning.errors import InputError
from hybrid_pruning.evaluation import Evaluation, Request, evaluate
from hybrid_pruning.evaluation.fitting import fit_calibration
from hybrid_pruning.jobs.pipeline.judge import DEV, ROUNDS
from hybrid_pruning.jobs.stages import Stage
from hybrid_pruning.models.calibration import Fit
from hybrid_pruning.models.cohort import FILE as COHORT
from hybrid_pruning.models.cohort import TOP_N
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.scoring.embedder import choose_device
from hybrid_pruning.scoring.inference import Options
from hybrid_pruning.scoring.verification.extraction import embed_utterances
from hybrid_pruning.scoring.verification.trial_list import plan_trials
from hybrid_pruning.scoring.verification.trial_scores import Request as Comparing
from hybrid_pruning.scoring.verification.trial_scores import make_cohort, score_trials


class VerificationJudge:
    """The `Judge` of speaker verification.

    Args:
        config: the job's recipe.
        out: the job's folder.

    Raises:
        InputError: a set has no trials, or trials have no set.
    """

    def __init__(self, config: Config, out: Path) -> None:
        self.config, self.out = config, out
        self.sets: Mapping[str, tuple[Path, ...]] = _pair_up(config)
        self.trained: tuple[Path, ...] = self.sets[DEV][1:]
        self.options = Options(config.training.batch_size, config.data.workers)

    def complete(self, model: Path, exported: Stage, member: str) -> tuple[Stage, ...]:
        """Return the stages of its cohort and of the embeddings of each manifest."""
        by = f" by {member}" if member else ""
        data = self.config.data
        drawn = {"top_n": TOP_N, "fraction": data.fraction, "fraction_of": data.fraction_of, "seed": self.config.seed}
        cohort = Stage(
            f"cohort{by}",
            lambda: self._give_cohort(model),
            (model / COHORT,),
            drawn,
            (data.train,),
            (exported,),
            shared=True,
        )
        return (cohort, *(self._embed(names, model, exported, member) for names in self._shared_manifests()))

    def score(self, name: str, model: Path, out: Path, member: str) -> object:
        """Score the trials of a set, with their quality measures as long as nothing is calibrated."""
        network = SpeechModel.from_pretrained(model).to(choose_device())
        first = next(names[0] for names in self._shared_manifests() if name in names)
        manifest, trials = self.sets[name]
        raw = network.calibration is None
        request = Comparing(manifest, trials, cache=self._cache(first, member), qualities=raw)
        return score_trials(network, request, out, options=self.options)

    def fit(self, scores: Path) -> Fit:
        """Return scale and offset of the dev trials' scores."""
        trials = self.sets[DEV][1]
        return fit_calibration(read_trials(scores, trials, SV), SV, scores, trials)

    def evaluate(self, name: str, scores: Path) -> Evaluation:
        """Return EER and minDCF, with intervals by the manifest's speakers where it tells them."""
        manifest, trials = self.sets[name]
        told = all(utterance.speaker not in (UNKNOWN, "") for utterance in read_manifest(manifest))
        return evaluate(SV, scores, trials, Request(rounds=ROUNDS, speakers=manifest if told else None))

    def join(self, name: str, scores: Path) -> tuple[Sequence[str], Sequence[Sequence[object]]]:
        """Return scores with what is true of the trials."""
        found = read_trials(scores, self.sets[name][1], SV)
        scores, labels = map(repr, found.scores[SV.scores].tolist()), found.classes.tolist()
        return (*SV.trial, SV.scores, "label"), list(zip(*found.names, scores, labels, strict=True))

    def _shared_manifests(self) -> list[list[str]]:
        """Return the names of the sets, those with the same manifest together."""
        groups: dict[Path, list[str]] = {}
        for name, (manifest, _) in self.sets.items():
            groups.setdefault(manifest, []).append(name)
        return list(groups.values())

    def _embed(self, names: Sequence[str], model: Path, exported: Stage, member: str) -> Stage:
        by, cache = f" by {member}" if member else "", self._cache(names[0], member)
        manifest = self.sets[names[0]][0]
        lists = [self.sets[name][1] for name in names]
        return Stage(
            f"embed {', '.join(names)}{by}",
            lambda: self._embed_set(model, manifest, lists, cache),
            (cache,),
            {},
            (manifest, *lists),
            (exported,),
            shared=True,
        )

    def _cache(self, name: str, member: str) -> Path:
        return self.out / "embeddings" / member / f"{name}.safetensors"

    def _embed_set(self, model: Path, manifest: Path, lists: Sequence[Path], cache: Path) -> None:
        """Embed the recordings of a manifest that any of the lists needs; what is there is of another model."""
        processes.from_main(lambda: cache.unlink(missing_ok=True))
        utterances = read_manifest(manifest)
        needed = {u.utt_id: u for path in lists for u in plan_trials(read_pairs(path), manifest, utterances).utterances}
        network = SpeechModel.from_pretrained(model).to(choose_device())
        embed_utterances(network, list(needed.values()), cache, cache, self.options)

    def _give_cohort(self, folder: Path) -> None:
        """Put the cohort into a model."""
        model = SpeechModel.from_pretrained(folder).to(choose_device())
        beside = folder.with_name(f"{folder.name}.cohort")
        manifest, speakers = processes.from_main(self._seen)
        model.cohort = make_cohort(model, manifest, beside, min(TOP_N, speakers), options=self.options)
        if processes.is_main():
            model.save_pretrained(folder)

    def _seen(self) -> tuple[Path, int]:
        """Return the manifest of the training data that were used, and how many speakers it has."""
        seen, manifest = read_trainset(self.config), self.config.data.train
        if self.config.data.fraction < 1:
            manifest = self.out / "cohort.tsv"
            write_manifest(manifest, seen)
        return manifest, len({utterance.speaker for utterance in seen})


def _pair_up(config: Config) -> dict[str, tuple[Path, ...]]:
    """Return the manifest and the trials of each set."""
    manifests, trials = {DEV: config.data.dev, **config.data.eval}, config.data.trials
    for name, manifest in manifests.items():
        if name not in trials:
            raise InputError(f"data.trials.{name} is missing: give the trials over {manifest}, or drop that set")
    if strangers := [name for name in trials if name not in manifests]:
        raise InputError(f"data.trials.{strangers[0]}: there is no data.eval.{strangers[0]}, the manifest they are of")
    return {name: (manifest, trials[name]) for name, manifest in manifests.items()}
