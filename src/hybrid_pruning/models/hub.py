"""An artifact's folder -> a model repository on the Hugging Face hub, in one commit."""

from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, RepositoryNotFoundError
from huggingface_hub.errors import HTTPError as NetworkError  # type: ignore[attr-defined]  # httpx's, or httpx2's
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from hybrid_pruning.errors import InputError, in_one_line
from hybrid_pruning.models.artifact import CONFIG
from hybrid_pruning.models.onnx.runtime import SUFFIXES, files_of

CARD = "README.md"
"""The file that the hub shows of a repository."""
EVAL_RESULTS = ".eval_results"
"""The folder in which the hub looks for results on benchmarks."""
MESSAGE = "Upload a hybrid-pruning model"
SIGN_IN = "sign in with `hf auth login`, or set HF_TOKEN to a token that may write"
REFUSED = {401: SIGN_IN, 403: f"your token may not write there; {SIGN_IN}"}


def upload(
    folder: str | Path,
    repo_id: str,
    card: str | Path | None = None,
    private: bool | None = None,
    message: str = MESSAGE,
    token: str | None = None,
) -> str:
    """Publish an artifact's `published` files in one commit, and return the repository's address.

    Args:
        folder: the artifact's; paths in its config are relative or names alone.
        repo_id: `user/name` or `organisation/name`; made where it does not exist.
        card: the model card; README.md of the folder by default, where there is one.
        private: whether a new repository is private; by default as its owner's settings say.
        message: of the commit.
        token: that may write; by default the one huggingface_hub finds (HF_TOKEN, `hf auth login`).
    """
    check_repo_id(repo_id)
    additions = [CommitOperationAdd(name, path) for name, path in published(folder, card).items()]
    api = HfApi(token=token, library_name="hybrid-pruning")
    try:
        repository = api.create_repo(repo_id, private=private, exist_ok=True)
        api.create_commit(repository.repo_id, additions, commit_message=message)
    except (NetworkError, HFValidationError, OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{repo_id}: {_explain(error)}") from error
    return str(repository)


def published(folder: str | Path, card: str | Path | None = None) -> dict[str, Path]:
    """Return the files that `upload` publishes, by their names there; beside each graph, its description."""
    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        raise InputError(f"{folder / CONFIG}: is not there; is {folder} an exported model?")
    graphs = sorted(path for suffix in SUFFIXES for path in folder.glob(f"*{suffix}"))
    exported = [path for graph in graphs for path in files_of(graph)]
    described = [graph.with_suffix(".json") for graph in graphs]
    paths = (folder / CONFIG, *sorted(folder.glob("*.safetensors")), *exported, *described, folder / CARD)
    found = {path.name: path for path in paths if path.is_file()} | ({} if card is None else {CARD: Path(card)})
    return found | {f"{EVAL_RESULTS}/{path.name}": path for path in sorted((folder / EVAL_RESULTS).glob("*.yaml"))}


def check_repo_id(repo_id: str) -> None:
    """Refuse an id that cannot be one of the hub's."""
    if not is_repo_id(repo_id):
        raise InputError(f"'{repo_id}' is no id of the hub: expected USER/NAME of letters, digits, -, _ and .")


def is_repo_id(text: str) -> bool:
    """Return whether a text has the form of the hub's ids; the hub is not asked whether it exists."""
    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return True


def _explain(error: Exception) -> str:
    """Return the reason of a failure and its remedy, in one line."""
    if isinstance(error, LocalTokenNotFoundError):
        return f"nobody is signed in; {SIGN_IN}"
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        if isinstance(error, RepositoryNotFoundError) and status == 404:
            return f"the hub has no such model repository, or hides it from you; {SIGN_IN}"
        reason = in_one_line(error.server_message or error)
        return f"the hub refused (HTTP {status}: {reason}); {REFUSED.get(status, 'nothing was published')}"
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):  # an upload's own wrapping
        return _explain(error.__cause__)
    reason = in_one_line(error) or type(error).__name__
    if isinstance(error, ValueError):
        return f"cannot be published: {reason}"
    return f"the hub cannot be reached ({reason}); check the network, HF_ENDPOINT and HF_HUB_OFFLINE, then call again"
