"""The verb `card`: a model's card is written, unless somebody edited it, and published with the model."""

from collections.abc import Sequence
from pathlib import Path

from hybrid_pruning.console import say, warn
from hybrid_pruning.errors import InputError
from hybrid_pruning.files import atomic_write
from hybrid_pruning.models import artifact, hub
from hybrid_pruning.models.card.measured import find_results, read_results
from hybrid_pruning.models.card.rendering import render_card, seal_of
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.trees import portable


def card(
    model: str | Path,
    out: str | Path | None = None,
    evaluations: Sequence[str] = (),
    run: str | Path | None = None,
    name: str | None = None,
    licence: str | None = None,
    datasets: Sequence[str] = (),
    force: bool = False,
    push: str | None = None,
    private: bool | None = None,
    message: str | None = None,
) -> Path:
    """Write a model card and, with `push`, publish model and card on the Hugging Face hub.

    A card that is there is published as it stands, unless there is more to say in it.

    Args:
        model: exported model: a folder, or a hub id with `out`.
        out: the file; README.md of the model's folder by default.
        evaluations: files of `evaluate --json`, each FILE or NAME=FILE.
        run: the job of `run` that made the model, for all its evaluations.
        name: of the model in the card; by default that of `push`, or the folder's.
        licence: of the weights, as the hub names licences.
        datasets: hub ids of the data it was trained on.
        force: replace a card that somebody edited.
        push: `user/name` of the repository to publish to.
        private: whether a new repository is private; by default as its owner's settings say.
        message: of the commit.

    Returns:
        The card's file.
    """
    if out is None and not Path(model).is_dir():
        raise InputError(f"{model}: is no folder here; say with --out where the card goes")
    if push is None and (private is not None or message is not None):
        raise InputError("card: --private, --public and --message go with --push")
    if push is not None:
        hub.check_repo_id(push)
    folder = artifact.locate(model)
    target = folder / hub.CARD if out is None else Path(out)
    found = SpeechModel.from_pretrained(folder)
    results = read_results(evaluations, [] if run is None else find_results(run, found.provenance))
    if force or results or licence or datasets or name or push is None or not target.is_file():
        title = name or push or (folder.resolve().name if folder == Path(model) else str(model))
        write_card(render_card(found, title, results, licence, datasets), target, force)
        say(f"{target}: written" + ("" if push else f"; next: hybrid-pruning card {model} --push USER/NAME"))
    if push is not None:
        if push.encode() not in target.read_bytes():
            warn(f"{target} does not name {push}: commands copied from it may not work")
        if portable(found.provenance) != found.provenance:
            warn(f"{folder / artifact.CONFIG} names places of the machine that trained it")
        files = hub.published(folder, target)
        sizes = ", ".join(f"{name} ({path.stat().st_size:,} bytes)" for name, path in files.items())
        say(f"publishing to {push}: {sizes}")
        say(hub.upload(folder, push, target, private, message or hub.MESSAGE))
    return target


def write_card(text: str, out: str | Path, force: bool = False) -> None:
    """Write a card, but not over one that was edited since `render_card` made it, unless forced."""
    out = Path(out)
    if not force and is_edited(out):
        raise InputError(f"{out}: was written or edited by somebody; give another --out, or --force to replace it")
    with atomic_write(out) as handle:
        handle.write(text)


def is_edited(path: Path) -> bool:
    """Return whether a file is there that holds anything but a card as `render_card` gave it."""
    if not path.exists():
        return False
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return path.is_file()  # a folder is refused by the write itself
    body, _, seal = text.rstrip("\n").rpartition("\n")
    return seal != seal_of(body).strip("\n")
