"""Keeping freed memory: it takes effect where glibc is, and says so where it is not."""

import subprocess
import sys

import pytest

from hybrid_pruning import distributed


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc is Linux's")
def test_it_takes_effect() -> None:
    program = "from hybrid_pruning.distributed import keep_freed_memory; print(keep_freed_memory())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_elsewhere_it_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not distributed.keep_freed_memory()
