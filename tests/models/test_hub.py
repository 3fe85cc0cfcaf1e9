"""Published and fetched again, through huggingface_hub's own client, on a hub that runs on this machine."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import ANY

import pytest
import torch
from huggingface_hub import ModelCard, constants

import hybrid_pruning as hp
from corpus import tiny_detector
from damage import refused
from hub_stand_in import TOKEN, Hub, serve
from hybrid_pruning import InputError
from hybrid_pruning.models import hub
from hybrid_pruning.models.heads import Classes
from hybrid_pruning.models.speech_model import describe_backbone
from world import Cli

LEGACY = "ignore:Use 'content=:DeprecationWarning"
"""huggingface_hub's uploads through LFS, which it prefers Xet to, are not kept up with its HTTP client's."""
pytestmark = pytest.mark.filterwarnings(LEGACY)
PROGRAM = """
from hybrid_pruning.models import artifact, hub
hub.upload("model", "me/small")
assert artifact.read_config(artifact.locate("me/small"))["task"] == "anti-spoofing"
"""
LICENCE = ("--base-license", "mit")
ARTIFACT = {"config.json", "model.safetensors", "README.md"}


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub that huggingface_hub uses as the real one, with a token and an empty cache."""
    with serve() as found:
        for name, value in {
            "ENDPOINT": found.address,
            "HUGGINGFACE_CO_URL_TEMPLATE": found.address + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_OFFLINE": False,
        }.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield found


@pytest.fixture
def detector(tmp_path: Path) -> hp.SpeechModel:
    return tiny_detector(tmp_path / "wavlm")


def test_a_pushed_model_comes_back(here: Hub, detector: hp.SpeechModel) -> None:
    address = detector.push_to_hub("me/small", private=True, message="first")
    assert address == f"{here.address}/me/small"
    assert set(here.files["me/small"]) == ARTIFACT
    assert (here.messages, here.visibility) == (["first"], {"me/small": "private"})
    assert "me/small" in here.files["me/small"]["README.md"].decode()
    again = hp.SpeechModel.from_pretrained("me/small")
    wave = torch.randn(2, 4000)
    assert torch.equal(again.score(wave), detector.score(wave))
    detector.classes = Classes(("spoof", "bonafide"), (1, 1))
    detector.push_to_hub("me/small", card="# mine\n")
    assert json.loads(here.files["me/small"]["config.json"])["training_counts"] == [1, 1]
    assert here.files["me/small"]["README.md"] == b"# mine\n"
    assert len(here.messages) == 2


def test_a_revision_is_fetched_and_its_commit_kept(here: Hub, detector: hp.SpeechModel, tmp_path: Path) -> None:
    detector.push_to_hub("me/small")
    hp.SpeechModel.from_pretrained("me/small", revision="v1.0")
    hp.SpeechModel.from_pretrained("me/small@v1.0")
    assert sum("/api/models/me/small/revision/v1.0" in request for request in here.seen) == 2
    files = (path for path in (tmp_path / "wavlm").iterdir() if path.is_file())
    here.files["me/encoder"] = {path.name: path.read_bytes() for path in files}
    commit = here.head("me/encoder")
    for backbone in (hp.load_backbone("me/encoder", revision="v2"), hp.load_backbone("me/encoder@v2")):
        assert backbone.origin == {"hub_id": "me/encoder", "commit": commit, "normalize": ANY}
        assert describe_backbone(backbone)["origin"]["commit"] == commit
    asked = [request for request in here.seen if "/me/encoder/resolve/" in request]
    assert {re.search("resolve/([^/]+)/", request)[1] for request in asked} == {"v2", commit}
    for name, revision, expected in (
        ("me/encoder@v2", "v1", "names revision 'v2', and revision 'v1'"),
        (tmp_path, "v1", "lies on this disk and has no revision 'v1'"),
        ("me/encoder@../../x", None, "expected a branch, a tag or a commit"),
        ("me/encoder@", None, "expected a branch, a tag or a commit"),
    ):
        with pytest.raises(InputError, match=expected):
            hp.load_backbone(name, revision=revision)


def test_without_network_the_cache_is_enough(here, detector, tmp_path, monkeypatch, capsys):
    """As AutoModel leaves it: without a preprocessor's settings."""
    files = ("config.json", "model.safetensors")
    here.files["me/encoder"] = {name: (tmp_path / "wavlm" / name).read_bytes() for name in files}
    first = hp.load_backbone("me/encoder")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    again = hp.load_backbone("me/encoder")
    assert again.origin == first.origin
    assert capsys.readouterr().out.count("assumed of feat_extract_norm") == 2


def test_onnx_goes_with_its_description_and_other_files_stay(here, detector, tmp_path):
    folder = tmp_path / "model"
    detector.save_pretrained(folder)
    for name in ("model.onnx", "model.json", "notes.json", "secrets.txt", "cohort.safetensors"):
        (folder / name).write_bytes(b"x" * 30)
    hub.upload(folder, "me/small")
    expected = {"config.json", "model.safetensors", "cohort.safetensors", "model.onnx", "model.json"}
    assert set(here.files["me/small"]) == expected


def test_card_publishes(here: Hub, cli: Cli, world: Path) -> None:
    found = cli("card", "model", "--evaluation", "dev=table.json", "--push", "lab/small", "--private", *LICENCE)
    assert (found.code, found.err) == (0, "")
    assert found.out.splitlines()[-1] == f"{here.address}/lab/small"
    assert set(here.files["lab/small"]) == ARTIFACT
    card = ModelCard(here.files["lab/small"]["README.md"].decode())
    assert card.data.model_name == "small"
    edited = (world / "model" / "README.md").read_text().replace("## Data", "I add this.\n\n## Data")
    (world / "model" / "README.md").write_text(edited)
    assert cli("card", "model", "--push", "lab/small").code == 0
    assert here.files["lab/small"]["README.md"].decode() == edited


def test_card_is_published_as_written_before(here: Hub, cli: Cli, world: Path) -> None:
    assert cli("card", "model", "--out", "cards/small.md", "--push", "me/elsewhere").code == 0
    assert here.files["me/elsewhere"]["README.md"] == (world / "cards" / "small.md").read_bytes()
    assert not (world / "model" / "README.md").exists()
    assert cli("card", "model", "--evaluation", "table.json", "--name", "me/small", "--license", "mit").code == 0
    written = (world / "model" / "README.md").read_bytes()
    found = cli("card", "model", "--push", "me/small")
    assert (found.code, found.err) == (0, "")
    announced, address = found.out.splitlines()
    assert re.match(
        r"publishing to me/small: config.json \([\d,]+ bytes\), model.safetensors \(.*, README.md", announced
    )
    assert address == f"{here.address}/me/small"
    assert here.files["me/small"]["README.md"] == written
    assert "does not name me/other" in cli("card", "model", "--push", "me/other").err


def test_a_refusal_is_one_line(here, detector, monkeypatch, tmp_path):
    def push(expected: str, repo_id: str = "me/small") -> None:
        with refused(f"^'?{re.escape(repo_id)}'?(: | is).*({expected})"):
            detector.push_to_hub(repo_id)

    for repo_id in ("a/b/c", "me/", "/x", "a b", "me/.hidden--", "", "../x"):
        push("no id of the hub", repo_id)
    assert not here.seen
    statuses = {401: "hf auth login", 403: "your token may not write", 404: "no such model|refused", 400: "refused"}
    for here.refusal, expected in statuses.items():
        push(expected)
    for name, value in {"ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": True}.items():
        with monkeypatch.context() as patch:
            patch.setattr(constants, name, value)
            push("cannot be reached")
    assert not here.files
    here.refusal, here.full = 0, True
    push(r"the hub refused \(HTTP 507")
    assert here.files == {"me/small": {}}
    here.full = False
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    push("hf auth login")
    assert detector.push_to_hub("me/small", token=TOKEN)


def test_missing_on_the_hub(here: Hub) -> None:
    with pytest.raises(InputError, match="me/nothing: neither a folder here nor a model"):
        hp.SpeechModel.from_pretrained("me/nothing")
    here.files["me/empty"] = {"README.md": b"# nothing yet\n"}
    with pytest.raises(InputError, match=r"config\.json: cannot be read"):
        hp.SpeechModel.from_pretrained("me/empty")


def test_publish_and_fetch_in_a_process_of_its_own(detector: hp.SpeechModel, tmp_path: Path) -> None:
    """With nothing of huggingface_hub changed but its environment."""
    detector.save_pretrained(tmp_path / "model")
    with serve() as found:
        settings = {"HF_ENDPOINT": found.address, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "home")}
        python = [sys.executable, "-W", "error", "-W", LEGACY, "-c", PROGRAM]
        environment = os.environ | settings | {"HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
        done = subprocess.run(python, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert set(found.files["me/small"]) == ARTIFACT - {"README.md"}
        assert {path.name for path in (tmp_path / "home").rglob("snapshots/*/*")} == ARTIFACT - {"README.md"}


def test_licences_are_asked_of_the_hub(here: Hub, cli: Cli, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here.files |= {"lab/corpus": {}, "lab/unsaid": {}}
    here.licences["lab/corpus"] = "cc-by-nc-4.0"
    options = [
        "--dataset",
        "lab/corpus",
        "--dataset",
        "lab/unsaid",
        "--dataset",
        "lab/said=mit",
        "--base-license",
        "mit",
    ]
    found = cli("card", "model", *options)
    assert found.code == 0
    doubts = " ".join(found.err.split())
    assert "lab/corpus (cc-by-nc-4.0) is not for commercial use" in doubts
    assert "licence of the data set lab/unsaid is not clear" in doubts
    assert "lab/said" not in doubts
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "licence of the data set lab/corpus is not clear" in " ".join(cli("card", "model", *options).err.split())
