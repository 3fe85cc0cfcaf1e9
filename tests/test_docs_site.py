"""The docs site: built strictly, complete where it is made of the code, and a notebook that runs."""

import importlib.util
import json
import re
import subprocess
import sys

import pytest
from typer.main import get_command

from hybrid_pruning.cli import app
from hybrid_pruning.config import Config, load_config
from test_readme import ROOT, workplace  # noqa: F401  a fixture

spec = importlib.util.spec_from_file_location("docs_site", ROOT / "dev" / "docs_site.py")
site = importlib.util.module_from_spec(spec)
spec.loader.exec_module(site)


def test_the_notebook_runs_and_its_model_is_as_counted(workplace, capsys):  # noqa: F811
    cells = [cell for cell in json.loads(site.NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    names = {}
    for cell in cells:
        exec(compile("".join(cell["source"]), "gates.ipynb", "exec"), names)
    lines = capsys.readouterr().out.splitlines()
    assert float(lines[-2].split()[2]) < 1e-5
    counted, actual = map(int, re.findall(r"\d+", lines[-1]))
    assert counted == actual < 0.35 * sum(parameter.numel() for parameter in names["backbone"].parameters())


def test_every_option_and_every_key_is_there():
    page = site.command_line()
    for name, verb in get_command(app).commands.items():
        assert f"## {name}\n" in page
        assert all(f"{one.opts[0]}" in page for one in verb.params), name
    page = site.recipe()

    def keys(section):
        for key, field in section.model_fields.items():
            kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
            nested = next((kind for kind in kinds if isinstance(kind, type) and hasattr(kind, "model_fields")), None)
            yield from keys(nested) if nested else [key]

    found = list(keys(Config))
    assert len(found) > 100
    assert [key for key in found if f"<code>{key}</code>" not in page] == []


def test_the_recipe_of_the_first_page_is_a_recipe(tmp_path):
    text = (ROOT / "docs" / "index.md").read_text().split("```yaml\n")[1].split("```")[0]
    (tmp_path / "recipe.yaml").write_text(text)
    assert list(load_config(tmp_path / "recipe.yaml").stages) == ["dense", "joint", "heal"]


@pytest.mark.soak
def test_it_builds_strictly_and_names_every_page(tmp_path):
    pytest.importorskip("mkdocs", reason="MkDocs is not installed: pip install 'hybrid-pruning[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    listed = (tmp_path / "llms.txt").read_text()
    for page in tmp_path.glob("*/**/index.html"):
        assert f"({page.parent.relative_to(tmp_path)}/)" in listed
        assert "://fonts" not in page.read_text()
    assert (tmp_path / "search" / "search_index.json").is_file()
