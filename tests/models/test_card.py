"""Model cards: figures as measured, unknown facts left out, and Markdown that is safe with any name."""

import json
import re
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import soundfile
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from typer.main import get_command

import hybrid_pruning as hp
from corpus import noise, tiny_detector
from hybrid_pruning import InputError, pruning
from hybrid_pruning.cli import app
from hybrid_pruning.console import printable
from hybrid_pruning.markdown import escape
from hybrid_pruning.models.calibration import Calibration, Fit
from hybrid_pruning.models.card import find_results, is_edited, read_results, render_card, write_card
from hybrid_pruning.models.card.lineage import Origin, find_origins
from world import Cli

RECIPE = {
    "seed": 7,
    "backbone": {"source": "microsoft/wavlm-base-plus", "random": False},
    "data": {"train": "/home/somebody/secret/asvspoof5/train.tsv", "dev": "dev.tsv", "crop_seconds": 3.0},
    "corpus": {"name": "asvspoof5", "root": "/home/somebody/ASVspoof5"},
    "training": {"epochs": 5, "batch_size": 16},
    "pruning": {"target_sparsity": 0.5, "constraint": "macs"},
    "augment": {"probability": 0.8, "noise": {"folder": "/musan"}, "codec": None},
}
FIGURES = {
    "eer": 0.0512,
    "min_dcf": 0.123,
    "cllr": 0.4,
    "n_bonafide": 1234,
    "n_spoof": 5678,
    "intervals": {"eer": [0.04, 0.06]},
    "bootstrap": {"resampled": "20 speakers"},
    "by": {"attack": [{"attack": "A09", "eer": 0.5}]},
}
FIT = Fit(2.0, -1.0, 0.5, "dev.uncalibrated.tsv", "dev.tsv", "0" * 64, 300, 700)
NASTY = "a|b `c` *d* <script>alert(1)</script>\n# e [f](http://g) {{ h }} --- &amp; $i$"


@pytest.fixture
def detector(tmp_path: Path) -> hp.SpeechModel:
    model = tiny_detector(tmp_path / "wavlm", num_hidden_layers=2)
    model.provenance = {"recipe": RECIPE, "averaged_checkpoints": 2}
    return model


@pytest.fixture
def verifier(detector: hp.SpeechModel) -> hp.SpeechModel:
    return hp.SpeechModel.build(detector.backbone, detector.head_config, None).eval()


def pruned(model: hp.SpeechModel) -> hp.SpeechModel:
    gates = pruning.attach(model.backbone)
    small = pruning.shrink(model.backbone, gates, gates.kept(target=0.5))
    return hp.SpeechModel.build(small, model.head_config, model.classes, provenance=model.provenance).eval()


def results(folder: Path, figures: Mapping[str, Any] = FIGURES, name: str = "eval") -> Any:
    path = folder / "figures.json"
    path.write_text(json.dumps(figures))
    return read_results([f"{name}={path}"])


def row(text: str, title: str) -> list[str]:
    """The cells of a table's row after its title."""
    (line,) = (line for line in text.splitlines() if line.startswith(f"| {title} |"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def blocks(text: str, language: str) -> str:
    return "".join(re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL))


@pytest.mark.parametrize(
    "name",
    [
        *("<img src=x onerror=alert(1)>", "[x](javascript:alert(1))", "![x](http://x)", "a | b", "`x`", "<!-- -->"),
        *("- item", "+ item", "1. item", "10) item", "# title", "> quote", "===", "---", "&lt;b&gt;", "\\", "$x$"),
        *("https://x.org", "www.x.org", "a@x.org", "a\n---\nb: c", "\x1b[2J", "<details>"),
        *("*x* _y_ ~~z~~", "[x]: http://x"),
    ],
)
def test_a_name_is_no_markdown(name: str) -> None:
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(f"- {escape(name)}")
    kinds = ["bullet_list", "list_item", "paragraph"]
    around = [*(f"{kind}_open" for kind in kinds), "inline", *(f"{kind}_close" for kind in reversed(kinds))]
    assert [token.type for token in tokens] == around
    children = tokens[3].children or []
    assert {child.type for child in children} <= {"text", "text_special"}
    assert "".join(child.content for child in children) == printable(name)
    assert not re.search(r"(?<!\\):(?=//)|www(?!\\)|(?<!\\)@", escape(name)), "the hub makes links of bare addresses"


def test_the_hub_reads_the_front_matter(detector: hp.SpeechModel, tmp_path: Path) -> None:
    data = ModelCard(render_card(detector, "me/small", results(tmp_path), "cc-by-4.0", ["me/data"])).data
    about = (data.license, data.library_name, data.pipeline_tag)
    assert about == ("cc-by-4.0", "hybrid-pruning", "audio-classification")
    assert (data.base_model, data.datasets) == ("microsoft/wavlm-base-plus", ["me/data"])
    assert {"anti-spoofing", "wavlm", "hybrid-pruning"} <= set(data.tags)
    assert "pruned" not in data.tags
    found = {(one.dataset_name, one.metric_type): one.metric_value for one in data.eval_results}
    assert found == {("eval", "eer"): 5.12, ("eval", "min_dcf"): 0.123, ("eval", "cllr"): 0.4}


def test_unknown_facts_are_left_out(detector: hp.SpeechModel) -> None:
    detector.provenance = {}
    text = render_card(detector, "small")
    about = yaml.safe_load(text.split("---\n")[1])
    assert set(about) == {"library_name", "pipeline_tag", "tags"}
    for sentence in (
        "is not recorded",
        "The recipe is not recorded in the model",
        "No evaluation was given",
        "licence of these weights is not stated",
        "It is dense",
    ):
        assert sentence in text
    assert "None" not in text.replace("None. Scores", "")
    assert "nan" not in text.split()


def test_folders_and_random_weights_are_no_base_on_the_hub(detector: hp.SpeechModel) -> None:
    backbones: list[tuple[dict[str, Any], str]] = [
        ({"source": source}, "Its backbone started from wavlm (WavLM).")
        for source in ("/data/wavlm", "./wavlm", "models/a/wavlm", "wavlm")
    ]
    backbones.append(({"source": "microsoft/wavlm-base", "random": True}, "started from random weights"))
    for backbone, sentence in backbones:
        detector.provenance = {"recipe": {"backbone": backbone}}
        text = render_card(detector, "small")
        assert "base_model" not in text
        assert "huggingface.co" not in text or backbone.get("random")
        assert sentence in text


def test_sizes_are_exact(detector: hp.SpeechModel) -> None:
    small = pruned(detector)
    text = render_card(small, "small")
    counts = [sum(p.numel() for p in model.backbone.parameters()) for model in (small, detector)]
    removed = f"{1 - counts[0] / counts[1]:.1%}"
    assert row(text, "backbone parameters") == [*(f"{count:,}" for count in counts), removed]
    head = sum(p.numel() for part in (small.head, small.classifier) for p in part.parameters())
    assert row(text, "head parameters")[0] == f"{head:,}"
    assert f"{removed} of the backbone's parameters" in text
    assert "gates learnt" in text
    assert "could be cut; the target was 50% of the MACs" in text
    small.provenance = {}  # as of a foreign model
    text = render_card(small, "small")
    assert "gates learnt" not in text
    assert "how that was learnt is not recorded" in text


def test_figures_are_those_of_the_evaluation(detector: hp.SpeechModel, tmp_path: Path) -> None:
    text = render_card(detector, "small", results(tmp_path))
    assert row(text, "eval") == ["1,234", "5,678", "5.120 (4.000 to 6.000)", "0.1230", "0.4000"]
    assert "95% intervals over resamples of 20 speakers" in text
    assert "A09" not in text
    both = results(tmp_path, {"eer": 0.9}, "one") + results(tmp_path, {"min_dcf": 0.2, "n_spoof": 3}, "two")
    text = render_card(detector, "small", both)
    assert (row(text, "one"), row(text, "two")) == (["–", "90.000", "–"], ["3", "–", "0.2000"])
    assert "one: an equal error rate of 90.0% is worse than chance" in text


def test_data_and_training(detector: hp.SpeechModel) -> None:
    text = render_card(detector, "small")
    assert text == render_card(detector, "small")
    expected = {
        "corpus": "asvspoof5",
        "trained on": "asvspoof5/train.tsv",
        "training utterances": "3 spoof, 1 bonafide",
        "validated on": "dev.tsv",
        "augmentation": "80% of the examples: noise",
        "epochs": "5",
        "seed": "7",
        "checkpoints averaged": "2",
    }
    assert {title: row(text, title)[0] for title in expected} == expected
    assert "somebody" not in text
    assert "secret" not in text


def test_calibration(detector: hp.SpeechModel, tmp_path: Path) -> None:
    text = render_card(detector, "small")
    assert "None. Scores rank recordings" in text
    assert "logarithm" not in text
    detector.calibration = Calibration((FIT,))
    text = render_card(detector, "small", results(tmp_path, name="dev"))
    assert "natural logarithm" in text
    assert "with the keys dev.tsv: 300 bona fide and 700 spoofed trials, prior 0.5" in text
    assert "The calibration was fitted on dev itself" in text


def test_speaker_verification_has_no_scores_of_one_recording(
    verifier: hp.SpeechModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    figures = {"eer": 0.01, "min_dcf_0.01": 0.1, "n_target": 10, "n_nontarget": 20}
    text = render_card(verifier, "small", results(tmp_path, figures))
    assert ModelCard(text).data.pipeline_tag == "feature-extraction"
    assert row(text, "eval") == ["10", "20", "1.000", "0.1000"]
    assert "gives no score for one recording" in text
    assert "bona fide" not in text
    assert "detect " not in text
    verifier.save_pretrained("small")
    for name in ("one.flac", "other.flac"):
        soundfile.write(name, noise(16_000), 16_000)
    exec(compile(blocks(text, "python"), "card", "exec"), {})
    assert float(capsys.readouterr().out) == pytest.approx(1)


@pytest.mark.parametrize("name", ["small", 'it\'s "so" small `'])
def test_its_commands_can_be_typed(
    detector: hp.SpeechModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    detector.save_pretrained(name)
    soundfile.write("speech.flac", noise(16_000), 16_000)
    text = render_card(detector, name)
    exec(compile(blocks(text, "python"), "card", "exec"), {})
    assert float(capsys.readouterr().out.strip("[]\n "))
    _, verb, *arguments = shlex.split(blocks(text, "bash"))
    context = get_command(app).commands[verb].make_context(verb, arguments)  # type: ignore[attr-defined]
    assert context.params["model"] == name


def test_names_are_no_markup(detector: hp.SpeechModel, tmp_path: Path) -> None:
    recipe = {"backbone": {"source": NASTY}, "data": {"train": NASTY}, "corpus": {"name": NASTY}, "seed": NASTY}
    plain, nasty = (
        render_card(detector, name, results(tmp_path, name=name))
        for name in ("plain", NASTY)
        if not detector.provenance.update(recipe=recipe if name == NASTY else RECIPE | {"backbone": {"source": "w"}})
    )
    kinds = [skeleton(text.split("---\n", 2)[2]) for text in (plain, nasty)]
    assert "html_inline" not in kinds[1]
    assert "link_open" not in kinds[1]
    assert kinds[1].count("th_open") == kinds[0].count("th_open")
    assert kinds[1].count("h2_open") == kinds[0].count("h2_open")
    about = yaml.safe_load(nasty.split("---\n", 2)[1])
    assert about["library_name"] == "hybrid-pruning"


def skeleton(page: str) -> list[str]:
    """The kinds of all parts of a rendered page."""
    tokens = MarkdownIt("commonmark").enable("table").parse(page)
    flat = [child for token in tokens for child in [token, *(token.children or [])]]
    return [token.type if token.type != "heading_open" else f"{token.tag}_open" for token in flat]


def test_only_an_untouched_card_is_written_over(detector: hp.SpeechModel, tmp_path: Path) -> None:
    out = tmp_path / "cards" / "README.md"
    assert not is_edited(out)
    for name in ("first", "second"):
        write_card(render_card(detector, name), out)
    edited = out.read_text().replace("# second", "# mine")
    for content in (edited, edited.rpartition("\n<!--")[0], "# mine\n", "", b"\xff"):
        out.write_bytes(content.encode() if isinstance(content, str) else content)
        before = out.read_bytes()
        with pytest.raises(InputError, match="edited by somebody"):
            write_card(render_card(detector, "third"), out)
        assert out.read_bytes() == before
    write_card(text := render_card(detector, "third"), out, force=True)
    assert out.read_text() == text
    out.write_bytes(text.replace("\n", "\r\n").encode())
    write_card(text, out)  # git on Windows does this; nothing anybody wrote is lost
    assert out.read_text() == text


def test_a_job_brings_its_evaluations(pristine: Path, tmp_path: Path) -> None:
    for source, place in (("run/config.yaml", "run/config.yaml"), ("table.json", "evaluation/dev.json")):
        (tmp_path / place).parent.mkdir()
        shutil.copy(pristine / source, tmp_path / place)
    provenance = {"recipe": yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())}
    for folder in (tmp_path, tmp_path / "run"):
        assert [result.name for result in find_results(folder, provenance)] == ["dev"]


def test_a_job_of_stages_made_the_model_of_its_last_one(pristine: Path, tmp_path: Path) -> None:
    recipe = yaml.safe_load((pristine / "run/config.yaml").read_text())
    stages = {"prune": {}, "heal": {"pruning": {"use_pruning_loss": False}}}
    healed = {**recipe, "pruning": {**recipe["pruning"], "use_pruning_loss": False, "target_sparsity": 0.5}}
    for place, content in (("run", recipe | {"stages": stages}), ("run/heal", healed)):
        (tmp_path / place).mkdir()
        (tmp_path / place / "config.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    (tmp_path / "evaluation").mkdir()
    shutil.copy(pristine / "table.json", tmp_path / "evaluation/dev.json")
    assert [result.name for result in find_results(tmp_path, {"recipe": healed})] == ["dev"]
    with pytest.raises(InputError, match="is not the recipe that the model was trained with"):
        find_results(tmp_path, {"recipe": recipe | {"seed": recipe["seed"] + 1}})


def test_the_target_is_that_of_the_stage_that_pruned(detector: hp.SpeechModel) -> None:
    detector.provenance = {"recipe": {**RECIPE, "pruning": {**RECIPE["pruning"], "use_pruning_loss": False}}}
    assert "the target was" not in render_card(pruned(detector), "small")


def test_the_verb(cli: Cli, pristine: Path) -> None:
    found = cli("card", str(pristine / "model"), "--out", "c.md", "--evaluation", str(pristine / "table.json"))
    assert found.code == 0
    assert found.err == "warning: the licence of the backbone wavlm is not clear: look before you pass the weights on\n"
    assert found.out.startswith("c.md: written; next: hybrid-pruning card ")
    assert cli("card", str(pristine / "model"), "--out", "c.md").code == 0


def test_the_origins_stand_with_their_licences_and_doubts(detector):
    origins = [
        Origin("backbone", "microsoft/wavlm-base-plus", "mit"),
        Origin("data set", "some/corpus", "cc-by-nc-4.0"),
        Origin("data set", "x/y"),
        *find_origins("whisper-tiny-encoder", "mit", {}),
    ]
    text = render_card(detector, "small", origins=origins)
    assert "| backbone | [microsoft/wavlm-base-plus](https://huggingface.co/microsoft/wavlm-base-plus) | mit |" in text
    assert "(https://huggingface.co/datasets/some/corpus) | cc-by-nc-4.0 |" in text
    assert "| backbone | whisper-tiny-encoder | mit |" in text, "a folder's name is no address"
    doubts = [line for line in text.splitlines() if line.startswith("- the ")]
    assert ["not for commercial use" in line for line in doubts] == [True, False]
    assert "licence of the data set x/y is not clear" in doubts[1]


@pytest.mark.parametrize(
    ("licence", "doubt"),
    [
        ("mit", ""),
        ("cc-by-4.0", ""),
        ("cc-by-nc-sa-4.0", "commercial"),
        ("CC_BY_NC_4.0", "commercial"),
        ("other", "clear"),
    ],
)
def test_a_licence_is_doubted_by_its_words(licence, doubt):
    found = Origin("backbone", "a/b", licence).doubt
    assert doubt in found
    assert bool(found) == bool(doubt)


def test_a_result_for_a_benchmark_as_the_hub_reads_it(cli, pristine, tmp_path):
    made = {
        "command": "hybrid-pruning evaluate s.tsv k.tsv --track1",
        "scores_sha256": "a" * 64,
        "keys_sha256": "b" * 64,
    }
    (tmp_path / "f.json").write_text(json.dumps(FIGURES | {"provenance": made | {"versions": {"numpy": "2.0"}}}))
    options = ["--out", "c.md", "--evaluation", "asvspoof5=f.json", "--base-license", "mit"]
    found = cli("card", str(pristine / "model"), *options, "--benchmark", "asvspoof5=lab/asvspoof5:track1")
    assert (found.code, found.err) == (0, "")
    (entry,) = yaml.safe_load((tmp_path / ".eval_results/asvspoof5.yaml").read_text())
    assert (entry["dataset"], entry["value"]) == ({"id": "lab/asvspoof5", "task_id": "track1"}, 5.12)
    for part in ("EER % 5.120 (4.000 to 6.000)", "minDCF 0.1230", made["command"], "a" * 64, "numpy 2.0"):
        assert part in entry["notes"]
    text = (tmp_path / "c.md").read_text()
    assert "b" * 64 in text
    for wrong, expected in (
        ("dev=lab/x", "there is no evaluation 'dev', but asvspoof5"),
        ("asvspoof5", "expected NAME=DATASET or NAME=DATASET:TASK"),
    ):
        assert expected in cli("card", str(pristine / "model"), *options, "--benchmark", wrong, "--force").err


def test_figures_over_several_sets_stand_in_the_card_and_in_no_leaderboard(detector, pristine, tmp_path):
    for source, place in (("run/config.yaml", "run/config.yaml"), ("table.json", "evaluation/dev.json")):
        (tmp_path / place).parent.mkdir()
        shutil.copy(pristine / source, tmp_path / place)
    (tmp_path / "pooled.json").write_text('{"sets": ["a", "b"], "mean_eer": 0.1, "pooled_eer": 0.15}')
    provenance = {"recipe": yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())}
    found = find_results(tmp_path, provenance)
    text = render_card(detector, "small", found)
    assert row(text, "mean over a, b")[2:][0] == "10.000"
    assert row(text, "one threshold for all of a, b")[2:][0] == "15.000"
    assert {entry.dataset_name for entry in ModelCard(text).data.eval_results} == {"dev"}
