"""The pages of the docs site that the code itself makes, a hook of MkDocs: options, recipe keys, published results,
pictures, the notebook as a page, and llms.txt."""

import html
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from typer.main import get_command

from hybrid_pruning.cli import app
from hybrid_pruning.config import Config
from hybrid_pruning.pruning.gate import hard_concrete, open_probability
from hybrid_pruning.pruning.schedule import SHAPES, scheduled_target
from hybrid_pruning.reporting import plots
from hybrid_pruning.reporting.published import UNKNOWN, read_published

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "examples" / "gates.ipynb"
CORPORA = {
    "asvspoof5": "ASVspoof 5, track 1",
    "spoofceleb": "SpoofCeleb",
    "voxceleb": "VoxCeleb1",
    "cnceleb": "CN-Celeb",
}


def code(value: object) -> str:
    """Return a value as code in a cell of a table."""
    return f"<code>{html.escape(str(value)).replace('|', '&#124;')}</code>"


def text(value: str) -> str:
    """Return plain text in one line; its `code` stays code."""
    return html.escape(" ".join(value.split()), quote=False).replace("*", "&#42;").replace("|", "&#124;")


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of cells that are Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def command_line() -> str:
    """Return all verbs with their arguments and options."""
    group: Any = get_command(app)
    pages = ["# Command line\n\n`hybrid-pruning VERB --help` says the same in the terminal.\n"]
    for name, verb in group.commands.items():
        arguments = [one for one in verb.params if one.param_type_name == "argument"]
        usage = " ".join([name, *map(_metavar, arguments), "[OPTIONS]"])
        pages.append(f"## {name}\n\n```text\nhybrid-pruning {usage}\n```\n\n{_paragraphs(verb.help)}\n")
        rows = []
        for one in verb.params:
            if one in arguments:
                rows.append([code(_metavar(one)), text(one.help or ""), ""])
                continue
            stated = isinstance(one.default, int | float | str) and one.default not in ("", False)
            rows.append([code(", ".join(one.opts)), text(one.help or ""), code(one.default) if stated else ""])
        pages.append(table(["", "", "default"], rows))
    return "\n".join(pages)


def _metavar(argument: Any) -> str:
    word = (argument.metavar or argument.name.upper()) + ("..." if argument.nargs == -1 else "")
    return word if argument.required else f"[{word}]"


def _paragraphs(given: str | None) -> str:
    return "\n\n".join(text(part) for part in re.split(r"\n\s*\n|\f|\x08", given or "") if part.strip())


def recipe() -> str:
    """Return every key of a recipe with its values, default and meaning."""
    schema = Config.model_json_schema()
    pages = ["# Recipe\n\nEvery key, in YAML or as `--set section.key=value`. A key that is not here is an error.\n"]
    pages += _section("", schema, schema["$defs"])
    return "\n".join(pages)


def _section(name: str, section: dict[str, Any], known: dict[str, Any]) -> Iterator[str]:
    rows, below = [], []
    for key, field in section["properties"].items():
        inner = next((one["$ref"] for one in [field, *field.get("anyOf", [])] if "$ref" in one), "")
        target = known.get(inner.rpartition("/")[2], {})
        if "properties" in target:
            below.append((f"{name}.{key}".lstrip("."), target))
        else:
            default = "" if "default" not in field else code(json.dumps(field["default"]))
            needed = "needed" if key in section.get("required", ()) else default
            rows.append([code(key), _values(field, known), needed, text(field.get("description", ""))])
    title = f"## {name}" if name else "## At the top"
    yield f"{title}\n\n{text(section.get('description', ''))}\n"
    if rows:
        yield table(["key", "values", "default", ""], rows)
    for path, target in below:
        yield from _section(path, target, known)


def _values(field: dict[str, Any], known: dict[str, Any]) -> str:
    if "$ref" in field:
        field = known[field["$ref"].rpartition("/")[2]]
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(_values(one, known) for one in field["anyOf"]))
    if "enum" in field or "const" in field:
        return ", ".join(code(value) for value in field.get("enum", [field.get("const")]))
    kind = {"array": "list", "object": "mapping", "boolean": "true, false"}.get(field["type"], field["type"])
    if field["type"] == "array" and isinstance(field.get("items"), dict):
        kind = f"list of {_values(field['items'], known)}"
    bounds = [f"{sign} {field[word]:g}" for word, sign in BOUNDS.items() if word in field]
    return ", ".join([kind, *bounds])


BOUNDS = {"minimum": "&ge;", "exclusiveMinimum": "&gt;", "maximum": "&le;", "exclusiveMaximum": "&lt;"}


def published() -> str:
    """Return the published systems of every corpus, each with its source."""
    pages = [
        "# Published results\n\nFigures of others, as stated, to stand beside ours; **none was measured here**. "
        "Sparsity is the fraction removed; parameters in millions, of the whole system; FLOPs for 4 s in billions.\n"
    ]
    for corpus, title in CORPORA.items():
        rows = [
            [
                one.set,
                one.system,
                UNKNOWN if one.sparsity is None else f"{one.sparsity:.0%}",
                UNKNOWN if one.params_m is None or one.derived else f"{one.params_m:g}",
                UNKNOWN if one.flops_g is None else f"{one.flops_g:g}",
                f"{100 * one.eer:.3g}",
                UNKNOWN if one.min_dcf is None else f"{one.min_dcf:g}",
                one.source,
            ]
            for one in read_published(corpus)
        ]
        headings = ["set", "system", "removed", "parameters", "FLOPs", "EER %", "minDCF", "source"]
        pages.append(f"## {title}\n\n{table(headings, rows)}")
    return "\n".join(pages)


def notebook() -> str:
    """Return the notebook as a page."""
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    shown = [
        "".join(cell["source"]) if cell["cell_type"] == "markdown" else f"```python\n{''.join(cell['source'])}\n```"
        for cell in cells
    ]
    return "\n\n".join([*shown, "The same as a file: `examples/gates.ipynb`, run by the tests.\n"])


def _svg(figure: Any) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def gate_picture() -> str:
    """Return the distribution of a gate's value for three values of log_alpha, as SVG."""
    uniform = torch.linspace(0, 1, 100_001)
    with plots.styled():
        figure, axes = plots.new_figure(plots.WIDTH, 0.45 * plots.WIDTH)
        for place, log_alpha in enumerate((-2.0, 0.0, 2.5)):
            values = hard_concrete(torch.tensor(log_alpha), uniform).numpy()
            label = f"log_alpha {log_alpha:g}: open with {float(open_probability(torch.tensor(log_alpha))):.0%}"
            weights = np.full(values.shape, 1 / values.size)
            axes.hist(
                values,
                41,
                range=(-0.0125, 1.0125),
                weights=weights,
                histtype="step",
                color=plots.COLOURS[place],
                label=label,
            )
        axes.set(xlabel="value of the gate", ylabel="probability", xlim=(-0.03, 1.03))
        axes.legend()
    return _svg(figure)


def schedule_picture() -> str:
    """Return the target sparsity over the warm-up in all shapes, as SVG."""
    progress = np.linspace(0, 1.3, 131)
    with plots.styled():
        figure, axes = plots.new_figure(plots.WIDTH, 0.45 * plots.WIDTH)
        for place, shape in enumerate(SHAPES):
            axes.plot(
                progress,
                [scheduled_target(shape, x, 0.0, 0.7) for x in progress],
                color=plots.COLOURS[place],
                label=shape,
            )
        axes.set(xlabel="share of the warm-up", ylabel="target sparsity")
        axes.legend()
    return _svg(figure)


GENERATED = {
    "reference/command-line.md": command_line,
    "reference/recipe.md": recipe,
    "published.md": published,
    "notebook.md": notebook,
    "pictures/gate.svg": gate_picture,
    "pictures/schedules.svg": schedule_picture,
}


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages."""
    from mkdocs.structure.files import File

    for place, make in GENERATED.items():
        files.append(File.generated(config, place, content=make()))
    return files


def on_post_build(config: Any) -> None:
    """Write llms.txt: every page of the navigation with its first sentence."""

    def pages(items: list[Any]) -> Iterator[tuple[str, str]]:
        for item in items:
            for title, place in item.items():
                yield from pages(place) if isinstance(place, list) else [(title, place)]

    lines = [f"# {config.site_name}\n\n> {config.site_description}\n"]
    for title, place in pages(config.nav):
        page = GENERATED[place]() if place in GENERATED else (ROOT / "docs" / place).read_text("utf-8")
        prose = re.sub(r"```.*?```|^(?:    |[#|<!:]).*$", "", page, flags=re.DOTALL | re.MULTILINE).split("\n\n")
        first = re.split(r"(?<=[a-z)`])[.:;] ", " ".join(next(filter(str.strip, prose), "").split()))[0].rstrip(".:")
        url = place.removesuffix("index.md").removesuffix(".md") + ("" if place == "index.md" else "/")
        lines.append(f"- [{title}]({config.site_url or ''}{url}): {' '.join(first.split())}")
    Path(config.site_dir, "llms.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
