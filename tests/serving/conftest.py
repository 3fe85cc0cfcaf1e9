"""Headless Chromium, which hears a recording for a microphone; tests of it are skipped where it is missing."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from served_fakes import clip

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")  # its event loop is in the way of others
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium here; apt install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    spoken = tmp_path_factory.mktemp("microphone") / "spoken.wav"
    spoken.write_bytes(clip(3, 10))
    microphone = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")
    arguments = ["--no-sandbox", *microphone, f"--use-file-for-fake-audio-capture={spoken}"]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()
