"""Manifests with every mistake, and score and key files: what the verbs that read them say."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from damage import changed, folder, removed, written
from world import Case

AUDIT, SCORE = "audit dev/manifest.tsv --workers 0", "score model dev/manifest.tsv --workers 0 --out new.tsv"
TRAIN, EVALUATE = "train recipe.yaml --out new", "evaluate scores.tsv dev/manifest.tsv --track1"
HEADER = "utt_id\tpath\tlabel\n"
Change = Callable[[str], str]
dev, train, scores = (partial(partial, changed, f"{name}") for name in (
    "dev/manifest.tsv", "train/manifest.tsv", "scores.tsv"))  # fmt: skip


def of(content: str | bytes) -> Callable[[Path], None]:
    return partial(written, "dev/manifest.tsv", content)


def row(utt_id: str, name: str = "a.wav", label: str = "spoof") -> Callable[[Path], None]:
    return of(f"{HEADER}{utt_id}\t{name}\t{label}\n")


def seconds(value: str) -> Callable[[Path], None]:
    return of(f"utt_id\tpath\tlabel\tseconds\na\ta.wav\tspoof\t{value}\n")


def replace(old: str, new: str, count: int = 1) -> Change:
    return lambda content: content.replace(old, new, count)


def without_last_line(content: str) -> str:
    return "".join(content.splitlines(keepends=True)[:-1])


def without_class(label: str) -> Change:
    return lambda content: "".join(line for line in content.splitlines(keepends=True) if f"\t{label}\t" not in line)


HERE = r"dev/manifest.tsv:2: "
MANIFESTS: dict[str, Case] = {
    "no manifest": Case(partial(removed, "dev/manifest.tsv"), SCORE, "dev/manifest.tsv: cannot be read .*check"),
    "a folder for a manifest": Case(partial(folder, "dev/manifest.tsv"), AUDIT, "dev/manifest.tsv: cannot be read"),
    "a manifest below a file": Case(of(HEADER), "audit recipe.yaml/m.tsv", "m.tsv: cannot be read .Not a directory"),
    "an empty manifest": Case(of(""), AUDIT, "manifest.tsv:1: column 'utt_id' is missing.*nothing"),
    "a missing column": Case(dev(replace("utt_id", "id")), SCORE, "manifest.tsv:1: column 'utt_id' is missing"),
    "commas for tabs": Case(dev(replace("\t", ",", 10**6)), AUDIT, ":1: column 'utt_id' is missing.*separated by tabs"),
    "an id twice": Case(
        dev(replace("spoof-01\t", "bonafide-00\t")), AUDIT, ":3: utt_id 'bonafide-00' already stands in"
    ),
    "an id twice, scored": Case(dev(replace("spoof-01\t", "bonafide-00\t")), SCORE, ":3: .*already stands in line 2"),
    "an id that climbs": Case(row("../../etc/passwd"), AUDIT, HERE + r"utt_id '../../etc/passwd' leads elsewhere"),
    "an id that commands the terminal": Case(row("a\x1b[2Jb"), AUDIT, HERE + r"holds control.*a\\x1b\[2Jb"),
    "seconds that are no number": Case(seconds("long"), AUDIT, HERE + "seconds 'long', expected a duration"),
    "bytes that are no text": Case(of(HEADER.encode() + b"\xe9\ta\tspoof\n"), AUDIT, "tsv: is not UTF-8 text"),
    "a path without end": Case(row("a", "b" * 200_000), SCORE, "bbb: cannot be read .*too long"),
    "one class to train on": Case(train(without_class("spoof")), TRAIN, "train/manifest.tsv: no utterance .*'spoof'"),
    "one class to validate on": Case(
        dev(without_class("bonafide")), TRAIN, "dev/manifest.tsv: no utterance .*'bonafide'"
    ),
    "one class to evaluate": Case(of(f"{HEADER}bonafide-00\ta\tspoof\n"), EVALUATE, "scores.tsv|dev/manifest.tsv"),
    "a missing file to train on": Case(
        train(replace("spoof-01.wav", "gone.wav")), TRAIN, "train/manifest.tsv: 'spoof-01': .*gone.wav does not exist"
    ),
    "a score missing": Case(scores(without_last_line), EVALUATE, "spoof-07.*scores.tsv"),
    "a score too many": Case(dev(without_last_line), EVALUATE, "scores.tsv.*spoof-07"),
    "a score that is no number": Case(scores(replace("\t", "\tx", 10**6)), EVALUATE, "scores.tsv:1"),
    "no scores": Case(partial(removed, "scores.tsv"), EVALUATE, "scores.tsv: cannot be read"),
}
