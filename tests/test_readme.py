"""Snippets of README and docs: their Python runs (on tiny models), their commands and YAML parse."""

import re
import shlex
from pathlib import Path

import pytest
import soundfile
import yaml

import hybrid_pruning as hp
from corpus import noise, write_wavlm
from hybrid_pruning.cli import app
from hybrid_pruning.config import HeadConfig, PruningConfig
from hybrid_pruning.models.heads import Classes

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = "\n".join([README, *(path.read_text("utf-8") for path in sorted((ROOT / "docs").glob("*.md")))])


def blocks(language: str) -> list[str]:
    return list(dict.fromkeys(re.findall(rf"```{language}\n(.*?)```", PAGES, flags=re.DOTALL)))


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where every name that the snippets use stands for something tiny."""
    monkeypatch.chdir(tmp_path)
    write_wavlm(tmp_path / "microsoft" / "wavlm-base")
    backbone = hp.load_backbone("microsoft/wavlm-base")
    model = hp.SpeechModel.build(
        backbone, HeadConfig(heads=2, compression=4, embedding=8), Classes(("spoof", "bonafide"), (1, 1))
    )
    model.save_pretrained(tmp_path / "models" / "hp50")
    soundfile.write(tmp_path / "speech.flac", noise(16_000), 16_000)
    soundfile.write(tmp_path / "interview.flac", noise(12 * 16_000), 16_000)  # longer than a window of 10 s
    return tmp_path


@pytest.mark.parametrize("snippet", blocks("python"))
def test_python_runs(snippet: str, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(snippet, "README.md", "exec"), {})
    assert capsys.readouterr().out


@pytest.mark.parametrize("line", [line for block in blocks("bash") for line in block.splitlines()])
def test_commands_parse(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program, verb, *arguments = shlex.split(line)
    assert program == "hybrid-pruning"
    from typer.main import get_command

    command = get_command(app).commands[verb]  # type: ignore[attr-defined]
    command.make_context(verb, list(arguments))  # raises on a word that the verb has not
    for argument in arguments:
        if argument.startswith("recipes/"):
            assert (ROOT / argument).is_file()


def test_pruning_block_is_valid() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL)
    assert PruningConfig(**yaml.safe_load(block)["pruning"]).use_pruning_loss


def test_paths_of_the_tree_exist() -> None:
    tree = README.split("## The tree")[1].split("## ")[0]
    for word in re.findall(r"[\w./]+(?:\.py|\.md|/)(?=\s)", tree):
        places = (ROOT / word, ROOT / "src/hybrid_pruning" / word)
        assert any(place.exists() for place in places), word
