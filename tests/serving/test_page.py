"""The page in headless Chromium: files, microphone, stream, two speakers, mistakes, a phone, the keyboard alone."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from served_fakes import clip, fakes, running

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with running() as address:
        yield f"http://{address}/"


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """The page, of which errors in the console and requests to elsewhere are mistakes."""
    context, wrong = browser.new_context(viewport={"width": 360, "height": 740}), []
    page = context.new_page()
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda sent: sent.url.startswith((address, "blob:", "data:")) or wrong.append(sent.url))
    page.goto(address)
    page.get_by_label("detector (").wait_for()
    yield page
    assert [text for text in wrong if "400 (Bad Request)" not in text] == []
    context.close()


def upload(page: Any, label: str, name: str, content: bytes) -> None:
    page.get_by_label(label).set_input_files({"name": name, "mimeType": "audio/wav", "buffer": content})


def test_a_file_is_judged_and_the_expectation_changes_the_verdict(page: Any):
    upload(page, "Choose files", "<b>call</b>.wav", clip(3, 5))
    result = page.locator("#results article")
    playwright.expect(result.locator(".word")).to_have_text("✓ Real")
    playwright.expect(result.locator("h3")).to_have_text("<b>call</b>.wav, 5.0 s")
    assert "LLR +3.00; probability of a fake 5%" in result.inner_text()
    assert result.locator("svg").last.get_attribute("aria-label").startswith("waveform of 5.0 s")
    result.get_by_text("Score of each window").click()
    assert [text[:3] for text in result.locator("tbody td:first-child").all_inner_texts()] == ["0.0", "1.7", "3.3"]
    page.locator("#prior").focus()
    page.keyboard.press("End")
    playwright.expect(result.locator(".word")).to_have_text("✗ Fake")
    for _ in range(2):
        page.keyboard.press("ArrowLeft")
    playwright.expect(result.locator(".word")).to_have_text("? Undecided")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")  # on a telephone
    grounds = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        grounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert grounds == ["rgb(251, 251, 249)", "rgb(20, 22, 26)"]
    upload(page, "Choose files", "short.wav", clip(3, 0.4))
    playwright.expect(page.locator("#results article").first).to_contain_text("holds 0.4 s of active sound")
    upload(page, "Choose files", "notes.txt", b"no audio")
    playwright.expect(page.locator("#results .error")).to_contain_text("notes.txt: cannot be decoded")
    page.get_by_text("Forget them").click()
    playwright.expect(page.locator("#results article")).to_have_count(0)
    playwright.expect(page.get_by_text("Forget them")).to_be_hidden()


def test_models_stand_side_by_side_with_size_and_time(browser: Any):
    models = [replace(fakes()[0], name=name, megabytes=size) for name, size in (("dense", 30.0), ("small", 8.5))]
    page = browser.new_page()
    with running(models=models) as address:
        page.goto(f"http://{address}/")
        page.get_by_label("small (float32, 8.5 MB)").wait_for()
        place = page.evaluate_handle(
            """(content) => { const sent = new DataTransfer(), bytes = Uint8Array.from(content);
            sent.items.add(new File([bytes], "dropped.wav")); return sent; }""",
            list(clip(-3)),
        )
        page.dispatch_event("#drop", "drop", {"dataTransfer": place})
        hints = page.locator("#results article .hint")
        playwright.expect(hints).to_have_count(2)
        for hint, (name, size) in zip(hints.all_inner_texts(), (("dense", "30.0"), ("small", "8.5")), strict=True):
            assert hint.startswith(f"{name}: torch, float32, {size} MB; took ")
        assert page.locator("#results .word").all_inner_texts() == ["✗ Fake", "✗ Fake"]
    page.close()


def reach(page: Any, part: str) -> None:
    """Press Tab until a part of the page has the focus."""
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == part:
            return
    raise AssertionError(f"{part} is not reached by Tab")


def test_the_keyboard_alone_chooses_files_and_compares_speakers(page: Any):
    file = {"name": "call.wav", "mimeType": "audio/wav", "buffer": clip(3)}
    page.on("filechooser", lambda chooser: chooser.set_files(file))

    def choose(part: str, name: str) -> None:
        file["name"] = name
        reach(page, part)
        page.keyboard.press("Enter")

    choose("files", "call.wav")
    playwright.expect(page.locator("#results .word")).to_have_text("✓ Real")
    reach(page, "prior")
    page.keyboard.press("End")
    playwright.expect(page.locator("#results .word")).to_have_text("✗ Fake")
    choose("enrol", "a.wav")
    playwright.expect(page.locator("#enrolled")).to_have_text("a.wav")
    choose("test", "b.wav")
    playwright.expect(page.locator("#results article").first).to_contain_text("b.wav against a.wav")
    reach(page, "clear")
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#results article")).to_have_count(0)


def test_the_keyboard_alone_records_and_listens(page: Any):
    reach(page, "record")
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#record")).to_have_attribute("aria-pressed", "true")
    page.wait_for_timeout(1500)
    page.keyboard.press("Space")
    playwright.expect(page.locator("#results article .hint")).to_contain_text("detector: torch", timeout=20_000)
    page.locator("#listen").focus()
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#live-chart p")).to_contain_text("LLR of all", timeout=20_000)
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#listen")).to_have_attribute("aria-pressed", "false")


def test_speakers_are_compared(page: Any):
    upload(page, "Compare a recording", "a.wav", clip(3))
    playwright.expect(page.locator("#status")).to_have_text("enrol a recording of the speaker first")
    upload(page, "Enrol recordings", "b.wav", clip(3))
    upload(page, "Compare a recording", "a.wav", clip(3))
    result = page.locator("#results article")
    playwright.expect(result).to_contain_text("a.wav against b.wav")
    playwright.expect(result).to_contain_text("cosine +1.00")
    playwright.expect(result.locator(".word")).to_have_text("? Undecided")  # that model is not calibrated
