"""The page at / in headless Chromium: ask, hover a token, replay, edit, regenerate, stop, keep, search, export."""
import json
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
        context = browser.new_context(viewport={"width": 1360, "height": 860}, accept_downloads=True)
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.problems, page.sent = [], []
        page.on("pageerror", lambda e: page.problems.append(str(e)))
        page.on("console", lambda m: m.type == "error" and page.problems.append(m.text))
        page.on("request", lambda r: r.method == "POST" and page.sent.append(r.post_data))
        page.goto(cluster.url + "/")
        yield page
        browser.close()


def ended(page):
    expect(page.locator("#send")).to_have_text("Send")


def ask(page, text):
    page.fill("#input", text)
    page.press("#input", "Enter")
    expect(page.locator(".turn.user .text").last).to_contain_text(text.split("\n")[0])
    ended(page)


def answers(page):
    return page.locator(".turn.assistant .text")


def test_the_page_names_the_model(page, model):
    expect(page.locator("#model")).to_contain_text(model)


def test_an_answer_streams_and_shows_speed_seed_and_digest(page):
    page.fill("#seed", "42")
    page.fill("#p-max_tokens", "120")
    page.fill("#input", "Why is the sky blue?")
    page.press("#input", "Enter")
    answer = answers(page).first
    expect(answer.locator(".tok").first).to_be_visible(timeout=120000)
    # It grows while it comes: seen with few tokens, then with more.
    early = answer.locator(".tok").count()
    ended(page)
    assert answer.locator(".tok").count() > early
    facts = page.locator(".turn.assistant .facts").first
    expect(facts).to_contain_text("tok/s")
    expect(facts).to_contain_text("seed 42")
    expect(facts).to_contain_text("digest ")
    expect(page.locator("#context")).to_contain_text("tokens of context used")
    assert len(answer.inner_text()) > 20


def test_only_what_the_user_set_is_sent(page):
    request = json.loads(page.sent[-1])
    own = {"model", "messages", "seed", "stream", "stream_options", "logprobs", "top_logprobs"}
    assert set(request) == own | {"max_tokens"} and request["seed"] == 42
    page.locator("#p-temperature").fill("0.5")
    page.fill("#seed", "-9223372036854775808")
    ask(page, "Say hi.")
    assert '"seed":-9223372036854775808,' in page.sent[-1]
    assert set(json.loads(page.sent[-1])) == own | {"max_tokens", "temperature"}
    page.click("#reset")
    assert page.input_value("#p-max_tokens") == "" and "default" in page.locator("#sliders output").first.inner_text()
    page.fill("#p-max_tokens", "24")


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
    page.fill("#seed", "4x")
    ask(page, "Hi")
    expect(page.get_by_role("alert")).to_contain_text("whole number from -2^63 to 2^64 - 1")
    page.fill("#seed", "")
    page.get_by_role("button", name="Try again").click()
    ended(page)
    expect(page.get_by_role("alert")).to_have_count(0)
    assert [m["role"] for m in json.loads(page.sent[-1])["messages"]] == ["user", "assistant", "user", "assistant", "user"]


def test_a_message_is_edited_and_sent_again(page):
    page.locator(".turn.user").nth(1).hover()
    page.locator(".turn.user").nth(1).get_by_role("button", name="Edit").click()
    page.get_by_label("Edited message").fill("Say good night.")
    page.get_by_label("Edited message").press("Enter")
    expect(page.locator(".turn.user .text").last).to_have_text("Say good night.")
    ended(page)
    expect(page.locator(".turn.user")).to_have_count(2)  # what came after it is gone
    assert json.loads(page.sent[-1])["messages"][-1]["content"] == "Say good night."


def test_an_answer_is_made_again_and_continued(page):
    before = json.loads(page.sent[-1])
    page.get_by_role("button", name="Regenerate").click()
    ended(page)
    again = json.loads(page.sent[-1])
    assert again["messages"] == before["messages"] and again["seed"] != before["seed"]
    page.fill("#p-max_tokens", "5")
    page.get_by_role("button", name="Regenerate").click()
    ended(page)
    cut = answers(page).last.inner_text()
    page.fill("#p-max_tokens", "9")
    page.get_by_role("button", name="Continue").click()
    ended(page)
    assert answers(page).last.inner_text().startswith(cut.strip()[:8])
    sent = json.loads(page.sent[-1])
    assert sent["continue_final_message"] and sent["messages"][-1]["role"] == "assistant"
    page.get_by_role("button", name="Replay").last.click()
    expect(page.locator(".verdict").last).to_contain_text("same digest")


def test_escape_stops_an_answer(page):
    page.fill("#p-max_tokens", "4000")
    page.evaluate("settings.set.ignore_eos = true")
    page.fill("#input", "Count to one thousand, one number on a line, and do not stop.")
    page.press("#input", "Enter")
    expect(answers(page).last.locator(".tok").nth(3)).to_be_visible()
    page.keyboard.press("Escape")
    ended(page)
    expect(page.locator(".turn.assistant .facts").last).to_contain_text("stopped")
    page.evaluate("delete settings.set.ignore_eos")
    page.fill("#p-max_tokens", "24")


def test_conversations_are_kept_named_found_exported_and_deleted(page):
    page.get_by_role("button", name="New chat").click()
    ask(page, "Tell me of zebras.")
    rows = page.locator(".chat-row")
    expect(rows).to_have_count(2)
    digest = page.locator(".chip.mono b").last.inner_text()
    page.reload()
    expect(page.locator(".turn.user .text")).to_have_text("Tell me of zebras.")  # still open
    expect(page.locator(".chip.mono b").last).to_have_text(digest)
    page.get_by_role("button", name="Replay").click()  # and can be replayed
    expect(page.locator(".verdict")).to_contain_text("same digest")
    rows.first.hover()
    rows.first.get_by_role("button", name="Rename").click()
    page.get_by_label("Name of the conversation").fill("Stripes")
    page.get_by_label("Name of the conversation").press("Enter")
    expect(rows.first).to_contain_text("Stripes")
    page.fill("#search", "zebras tell")
    expect(rows).to_have_count(1)
    page.fill("#search", "nowhere-to-be-found")
    expect(rows).to_have_count(0)
    page.fill("#search", "")
    for kind, name in (("Markdown", "Stripes.md"), ("JSON", "Stripes.json")):
        rows.first.hover()
        rows.first.get_by_role("button", name="Export").click()
        with page.expect_download() as download:
            page.get_by_role("button", name=kind).click()
        assert download.value.suggested_filename == name
        text = pathlib.Path(download.value.path()).read_text()
        assert "Tell me of zebras." in text and digest in text
    assert json.loads(text)["messages"][0] == {"role": "user", "content": "Tell me of zebras."}
    rows.first.hover()
    rows.first.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Delete?").click()
    expect(rows).to_have_count(1)
    expect(page.locator("#empty")).to_be_visible()


MARKDOWN = """# Title with `code`

A **bold**, *slanted*, ~~wrong~~ word, 2*3*4, snake_case_name, \\*stars\\*.
Second line with [a link](https://example.org/a_(b)) and https://example.org/x?y=1.

- one
- two
  - nested
    with more

1. first
2. [x] done

> quoted **text**

| a | b |
|---|--:|
| 1 | `x|y` |

```python
def f(x):
    return "<b>" * x
```

<script>alert(1)</script> <img src=x onerror=alert(2)> [bad](javascript:alert(3)) ![pixel](https://example.org/p.png)
"""


def test_markdown_is_shown_and_hostile_text_stays_text(page):
    html = page.evaluate("""source => {
      const box = document.createElement("div");
      box.append(renderMarkdown(source, (text, at) => {
        if (source.slice(at, at + text.length) !== text) throw new Error("not where it stood: " + text);
        return document.createTextNode(text);
      }));
      return box.innerHTML;
    }""", MARKDOWN)
    for part in ("<h1>Title with <code>code</code></h1>", "<strong>bold</strong>", "<em>slanted</em>", "<s>wrong</s>", "2*3*4",
                 "snake_case_name", ", *stars*.<br>", '<a href="https://example.org/a_(b)" target="_blank" rel="noopener noreferrer">a link</a>',
                 '>https://example.org/x?y=1</a>.', "<li><p>two</p><ul><li><p>nested<br>with more</p></li></ul></li>", "<ol start=\"1\">",
                 'type="checkbox" disabled=""', "<blockquote><p>quoted <strong>text</strong></p></blockquote>",
                 '<td style="text-align: right;"><code>x|y</code></td>', 'return "&lt;b&gt;" * x', "<span>python</span>",
                 "&lt;script&gt;alert(1)&lt;/script&gt;", "&lt;img src=x onerror=alert(2)&gt;", "<span>bad</span>", ">pixel</a>"):
        assert part in html, f"{part}\n{html}"
    for never in ("<script", "<img", "javascript:"):
        assert never not in html
    # Whatever comes, half or whole, every character is shown once or is a mark, and nothing throws or hangs.
    page.evaluate("""source => {
      for (let n = 0; n <= source.length; n++)
        renderMarkdown(source.slice(0, n), (text, at) => { if (source.slice(at, at + text.length) !== text) throw new Error(text); return document.createTextNode(text); });
      for (const odd of ["*".repeat(20000), "[".repeat(20000), "> ".repeat(5000), "`".repeat(9999) + "a", "- ".repeat(3000), "_a".repeat(9000), "|".repeat(20000) + "\\n|-|"])
        renderMarkdown(odd, text => document.createTextNode(text));
    }""", MARKDOWN)


def test_a_full_context_offers_ways_on(page):
    page.get_by_role("button", name="New chat").click()
    page.fill("#p-max_tokens", "8")
    ask(page, "Say yes.")
    page.evaluate("chat.messages[0].content = 'word '.repeat(12000)")  # an old message that no longer fits
    ask(page, "Say no.")
    expect(page.get_by_role("alert")).to_contain_text("maximum context length")
    expect(page.get_by_role("alert").get_by_role("button", name="New chat")).to_be_visible()
    page.get_by_role("button", name="Leave out the oldest messages").click()
    ended(page)
    expect(page.locator(".divider")).to_contain_text("no longer sent")
    assert [m["content"] for m in json.loads(page.sent[-1])["messages"]] == ["Say no."]
    expect(page.locator(".turn.assistant .facts").last).to_contain_text("digest ")


def test_the_page_on_a_phone(page):
    page.set_viewport_size({"width": 375, "height": 700})
    page.reload()
    wide = "document.scrollingElement.scrollWidth > innerWidth || document.body.scrollWidth > innerWidth"
    assert not page.evaluate(wide)
    expect(page.locator("#side")).to_be_hidden()
    expect(page.locator("#chats-panel")).to_be_hidden()
    for button, panel in (("#menu", "#chats-panel"), ("#panel", "#side")):
        page.click(button)
        expect(page.locator(panel)).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.locator(panel)).to_be_hidden()
    page.click("#menu")
    page.locator(".chat-row .name").last.click()
    expect(page.locator("#chats-panel")).to_be_hidden()
    assert not page.evaluate(wide)
    page.screenshot(path=str(SHOTS / "web-page-phone.png"))
    page.set_viewport_size({"width": 1360, "height": 860})


def test_saved_values_of_the_former_page_do_not_count(page):
    page.evaluate("localStorage.clear(); localStorage.setItem('tutti', JSON.stringify({temperature: .7, top_k: 40, max_tokens: 512, system: 'Be brief.'}))")
    page.reload()
    page.get_by_role("button", name="New chat").click()
    page.fill("#p-max_tokens", "4")
    ask(page, "Hi.")
    sent = json.loads(page.sent[-1])
    assert "temperature" not in sent and "top_k" not in sent and sent["messages"][0] == {"role": "system", "content": "Be brief."}


def test_the_page_had_no_errors(page):
    # The browser itself reports refused requests: those that the tests meant to be refused.
    assert [p for p in page.problems if "status of 400" not in p] == []
