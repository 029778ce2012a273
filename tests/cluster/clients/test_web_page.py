"""The page at / in headless Chromium: type, watch the answer come, hover a token, replay."""
import os
import pathlib
import shutil

import pytest
from playwright.sync_api import expect, sync_playwright

expect.set_options(timeout=120_000)  # machines that run tests are busy
SHOTS = pathlib.Path(__file__).resolve().parents[3] / "build"


@pytest.fixture(scope="module")
def page(cluster):
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    assert chromium, "no chromium: install the Debian package"
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_timeout(120_000)
        page.problems = []
        page.on("pageerror", lambda e: page.problems.append(str(e)))
        page.on("console", lambda m: m.type == "error" and page.problems.append(m.text))
        page.goto(cluster.url + "/")
        yield page
        browser.close()


def test_the_page_names_the_model(page, model):
    expect(page.locator("#model")).to_contain_text(model)


def test_an_answer_streams_and_shows_speed_seed_and_digest(page):
    page.fill("#seed", "42")
    page.fill("#input", "Why is the sky blue?")
    page.evaluate("document.querySelector('#p-max_tokens').value = 160")
    page.press("#input", "Enter")
    answer = page.locator(".turn.assistant .text").first
    expect(answer.locator(".tok").first).to_be_visible(timeout=120000)
    # It grows while it comes: seen with few tokens, then with more.
    early = answer.locator(".tok").count()
    expect(page.locator("#send")).to_have_text("Send")
    assert answer.locator(".tok").count() > early
    facts = page.locator(".turn.assistant .facts").first
    expect(facts).to_contain_text("tok/s")
    expect(facts).to_contain_text("seed 42")
    expect(facts).to_contain_text("digest ")
    assert len(answer.inner_text()) > 20


def test_hovering_a_token_shows_its_probabilities(page):
    page.locator(".turn.assistant .tok").nth(1).hover()
    pop = page.locator("#pop")
    expect(pop).to_be_visible()
    assert pop.locator(".alt").count() >= 5
    expect(pop.locator(".head b")).to_contain_text("%")
    SHOTS.mkdir(exist_ok=True)
    page.screenshot(path=str(SHOTS / "web-page.png"))


def test_a_replay_has_the_same_digest(page):
    page.get_by_role("button", name="Replay").first.click()
    expect(page.locator(".verdict").first).to_contain_text("same digest")


def test_a_refused_request_is_shown_and_the_page_goes_on(page):
    page.fill("#seed", "-1")
    page.fill("#input", "Hi")
    page.press("#input", "Enter")
    expect(page.get_by_role("alert")).to_contain_text("seed")
    page.fill("#seed", "")
    page.fill("#input", "Say hi.")
    answers = page.locator(".turn.assistant .facts").count()
    page.press("#input", "Enter")
    expect(page.locator(".turn.assistant .facts")).to_have_count(answers + 1)
    expect(page.locator("#send")).to_have_text("Send")
    assert page.problems == []
