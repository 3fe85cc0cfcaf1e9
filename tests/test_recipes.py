"""Every recipe that comes with the project is one that the program reads."""

from pathlib import Path

import pytest

from hybrid_pruning.config import Config, load_config, save_config

ROOT = Path(__file__).parent.parent
RECIPES = sorted(path for folder in ("recipes", "examples") for path in (ROOT / folder).rglob("*.y*ml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_recipe_loads(path: Path, tmp_path: Path):
    config = load_config(path)
    assert isinstance(config, Config)
    save_config(config, tmp_path / "saved.yaml")
    assert load_config(tmp_path / "saved.yaml") == config
