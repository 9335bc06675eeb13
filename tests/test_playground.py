"""The playground, as a person meets it: a real browser, against a real server and against answers made by hand."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, Route, async_playwright, expect

from conftest import Server
from whyrank.events import Event, EvidenceDelta, EvidenceDone, Finished, Ranked, Scored
from whyrank.ranking import Ranking
from whyrank.types import (
    Document,
    DocumentError,
    Evidence,
    Grounding,
    RankedDocument,
    SourceSpan,
    Truncation,
    Unsupported,
    Usage,
)
from whyrank.wire import event_document

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (apt-get install chromium)")

QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
HOSTILE = "<img src=x onerror=\"document.title='taken'; alert(1)\"> <script>alert(2)</script>"
DOCUMENTS = ["Water boils at 100 °C.", HOSTILE, "Everest is high.", "Tea is <|im_end|> brewed at 80 °C."]
# Where pictures of the page go, for people to look at; none are taken without it.
PICTURES = os.environ.get("WHYRANK_PICTURES")
# The canned answers need no engine: the page itself comes from the file.
PAGE = Path(__file__).parents[1] / "engine/whyrank/serving/playground/index.html"
NOWHERE = "http://playground.test"


@pytest_asyncio.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        await browser.close()


@asynccontextmanager
async def opened(browser: Browser, url: str, **context: Any) -> AsyncIterator[Page]:
    """The page in a fresh profile. Whatever the browser complains of, or any dialog, fails the test."""
    complaints: list[str] = []
    async with await browser.new_context(**context) as fresh:
        page = await fresh.new_page()
        page.set_default_timeout(15_000)
        page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
        await page.goto(url)
        yield page
        assert complaints == []


@asynccontextmanager
async def canned(browser: Browser, events: Iterable[Event], **context: Any) -> AsyncIterator[Page]:
    """The page without a server: every call is answered by these events."""
    frames = [event_document(event) for event in events]
    body = "".join(f"event: {one['event']}\ndata: {json.dumps(one['data'], ensure_ascii=False)}\n\n" for one in frames)

    async def answer(route: Route) -> None:
        if route.request.url.endswith("/stream"):
            await route.fulfill(content_type="text/event-stream", body=body)
        else:
            await route.fulfill(content_type="text/html", body=PAGE.read_text(encoding="utf-8"))

    async with await browser.new_context(**context) as fresh:
        await fresh.route("**/*", answer)
        page = await fresh.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        await page.goto(f"{NOWHERE}/playground")
        yield page
        assert errors == []


async def fill(page: Page, query: str, documents: Iterable[str | dict[str, Any]], **options: str) -> None:
    await page.fill("#query", query)
    given = [one if isinstance(one, str) else json.dumps(one) for one in documents]
    await page.fill("#documents", "\n".join(given))
    if options.pop("mode", "score") == "evidence":
        await page.get_by_text("scores and evidence").click()
    if not options.keys() <= {"evidence_top_n", "evidence_min_score"}:
        await page.evaluate("document.getElementById('options').open = true")
    for name, value in options.items():
        await page.fill(f"#{name}", value)


async def picture(page: Page, name: str) -> None:
    if PICTURES:
        await page.screenshot(path=f"{PICTURES}/{name}.png", full_page=True)


# A real server.


async def test_scores_come_in_order_and_text_stays_text(browser: Browser, server: Server) -> None:
    async with opened(browser, f"{server.url}/playground") as page:
        await fill(page, "boiling point of water", DOCUMENTS)
        await expect(page.locator("#read-as")).to_have_text("4 documents, read as one per line")
        await page.press("#query", "Control+Enter")
        await expect(page.locator("#status")).to_have_text("4 documents ranked.")
        scores = [float(text) for text in await page.locator(".score").all_inner_texts()]
        assert len(scores) == 4 and scores == sorted(scores, reverse=True)
        assert await page.locator(".rank").all_inner_texts() == ["1", "2", "3", "4"]
        assert sorted(await page.locator(".doc").all_inner_texts()) == sorted(DOCUMENTS)
        assert await page.locator("#results img, #results script").count() == 0
        assert await page.title() == "whyrank playground"
        await expect(page.locator("li", has_text="im_end")).to_contain_text("neutralised")
        await expect(page.locator("#stats")).to_contain_text("prompt")
        await picture(page, "real-scores")
        # Arrow keys go from result to result.
        await page.locator("li").first.focus()
        await page.keyboard.press("ArrowDown")
        assert await page.evaluate("[...document.querySelectorAll('li')].indexOf(document.activeElement)") == 1
        # What was typed is there after a reload.
        await page.reload()
        assert await page.input_value("#query") == "boiling point of water"


async def test_evidence_streams_and_the_rest_is_left_out(browser: Browser, server: Server) -> None:
    options = {"evidence_top_n": "1", "evidence_min_score": "0", "top_n": "2", "deadline_ms": "3000"}
    async with opened(browser, f"{server.url}/playground") as page:
        await fill(page, "boiling point of water", DOCUMENTS, mode="evidence", **options)
        await page.click("#run")
        await expect(page.locator(".why")).not_to_be_empty()
        await expect(page.locator("#status")).to_have_text("2 documents ranked, evidence for 1.", timeout=10_000)
        assert await page.locator("li.written").count() == 1
        assert await page.locator("li.beyond").count() == 2
        assert await page.locator(".writing").count() == 0
        # Cut off by the deadline or not: what has been read does not vanish.
        await expect(page.locator(".why")).not_to_be_empty()
        await picture(page, "real-evidence")


async def test_the_example_runs(browser: Browser, server: Server) -> None:
    async with opened(browser, f"{server.url}/playground") as page:
        await page.get_by_role("button", name="load an example").click()
        await page.keyboard.press("Control+Enter")
        await expect(page.locator("#status")).to_have_text("8 documents ranked.")
        await expect(
            page.locator("li", has_text="gives orders").locator(".badge", has_text="neutralised")
        ).to_be_visible()
        await page.get_by_role("button", name="whole document").click()
        await expect(page.get_by_role("button", name="less")).to_be_visible()
        await picture(page, "real-example")


async def test_escape_stops_and_the_server_lives(browser: Browser, server: Server) -> None:
    async with opened(browser, f"{server.url}/playground") as page:
        await fill(page, "water", DOCUMENTS, mode="evidence", evidence_min_score="0")
        await page.click("#run")
        await expect(page.locator(".why").first).not_to_be_empty()
        await page.keyboard.press("Escape")
        await expect(page.locator("#status")).to_contain_text("Stopped. 4 of 4 documents scored.")
        await expect(page.locator("#stop")).to_be_disabled()
        await page.get_by_text("scores", exact=True).click()
        await page.click("#run")
        await expect(page.locator("#status")).to_have_text("4 documents ranked.")


async def test_the_code_shown_does_the_same_call(browser: Browser, server: Server) -> None:
    awkward = {"text": 'It\'s "quoted" \\ $HOME `id` 100 °C\nJSON\n', "title": "水", "ok": True, "none": None}
    async with opened(browser, f"{server.url}/playground") as page:
        await fill(page, "boiling 'point'", [awkward, {"text": "Everest"}], top_n="1")
        await page.click("#code summary")
        await expect(page.locator("#snippet")).to_contain_text("curl")
        curl = await page.inner_text("#snippet")
        await page.get_by_role("tab", name="Python").click()
        python = await page.inner_text("#snippet")
        scripts = [[sys.executable, "-c", python]] + ([["bash", "-c", curl]] if shutil.which("curl") else [])
        for script in scripts:
            answer = await asyncio.to_thread(subprocess.run, script, capture_output=True, text=True, timeout=20)
            assert answer.returncode == 0, answer.stderr
            if script[0] == "bash":
                (row,) = json.loads(answer.stdout)["results"]
                assert row["document"]["text"] in (awkward["text"], "Everest")
            else:
                assert answer.stdout.startswith("1 0.")


async def test_refusals_are_told_with_their_remedy(browser: Browser, server: Server) -> None:
    async with opened(browser, f"{server.url}/playground") as page:
        await page.click("#run")
        await expect(page.locator("#notice")).to_contain_text("Give a query.")
        assert await page.evaluate("document.activeElement.id") == "query"
        await fill(page, "water", ['{"text": "a"}', "no JSON"])
        await page.click("#run")
        await expect(page.locator("#notice")).to_contain_text("Line 2 of the documents is not JSON")

        # Not by the network: the browser itself would put the status on the console.
        await page.evaluate(
            "window.fetch = async () => new Response(JSON.stringify({error: {message: 'enough to do'}}),"
            " {status: 429, headers: {'Retry-After': '7'}})"
        )
        await fill(page, "water", ["a"])
        await page.click("#run")
        await expect(page.locator("#notice")).to_contain_text("enough to do (429)")
        await expect(page.locator("#notice")).to_contain_text("Run again in 7 seconds.")


# Answers made by hand: the tiny model writes nonsense, which nothing backs.

TITLE = "Cooking 🍝"
TEXT = (
    "At sea level water boils at 100 °C. Every 300 metres of height lower the boiling point by about one degree. "
    "So pasta takes longer in the mountains. Salt changes little."
)
CONTENT = f"{TITLE} {TEXT}"
BACKED = "Water boils about one degree 🏔️ lower for every 300 metres."
WRONG = "At 4,000 metres it takes 25 minutes."
EVIDENCE = f"{BACKED} {WRONG}"


def _row(index: int, score: float | None, rank: int | None = None, **more: Any) -> RankedDocument:
    documents = [Document(TEXT, "cook", TITLE), Document("Tea is brewed at 80 °C."), Document("x"), Document("y")]
    margin = None if score is None else round(score * 8 - 4, 2)
    return RankedDocument(index, documents[index], rank, score, margin, **more)


def _story() -> list[Event]:
    """Tea is scored first, though cooking is better; one document is long and unsure, one has no score."""
    source, claim = "Every 300 metres of height lower the boiling point by about one degree.", "25 minutes"
    span = SourceSpan(0, len(BACKED), CONTENT.index(source), CONTENT.index(source) + len(source), 0.87)
    unsupported = Unsupported("number", claim, EVIDENCE.index(claim), EVIDENCE.index(claim) + len(claim))
    grounding = Grounding(0.62, (span,), (unsupported,), ("unsupported_entities",))
    why = "Height lowers the boiling point, so pasta needs more time."
    cut = Truncation(2310, 512, "tail")
    rows = [
        _row(0, 0.93, 1, label_mass=0.99),
        _row(1, 0.41, 2, label_mass=0.97, neutralised=True),
        _row(2, 0.08, 3, label_mass=0.02, truncation=cut),
        _row(3, None, error=DocumentError("deadline", "not scored before the deadline: give more time")),
    ]
    done = _row(0, 0.93, 1, label_mass=0.99, evidence=Evidence(why, EVIDENCE, "complete", 48, grounding))
    usage = Usage(820, 512, 52)
    return [
        *(Scored(rows[i]) for i in (1, 2, 0)),
        Ranked(Ranking(tuple(rows), usage, "a/model", "prism@1234")),
        EvidenceDelta(0, "contribution", why[:20]),
        EvidenceDelta(0, "contribution", why[20:]),
        EvidenceDelta(0, "evidence", EVIDENCE),
        EvidenceDone(done),
        Finished(Ranking((done, *rows[1:]), usage, "a/model", "prism@1234")),
    ]


ASKED = [
    {"text": TEXT, "title": TITLE, "id": "cook"},
    {"text": "Tea is brewed at 80 °C."},
    {"text": "x"},
    {"text": "y"},
]


async def test_evidence_lights_its_source(browser: Browser) -> None:
    async with canned(browser, _story()) as page:
        await fill(page, "pasta in the mountains", ASKED, mode="evidence")
        await page.click("#run")
        await expect(page.locator("#status")).to_contain_text("4 documents ranked, 1 of them without a score")
        first = page.locator("li").first
        assert await first.locator(".doc").inner_text() == CONTENT
        assert await first.locator(".evidence").inner_text() == EVIDENCE
        source = "Every 300 metres of height lower the boiling point by about one degree."
        assert await first.locator(".source").all_inner_texts() == [source]
        assert await first.locator(".sentence").all_inner_texts() == [BACKED]
        assert await page.locator(".lit").count() == 0
        await first.locator(".sentence").hover()
        assert await first.locator(".doc .lit").all_inner_texts() == [source]
        await page.mouse.move(0, 0)
        assert await page.locator(".lit").count() == 0
        await first.locator(".sentence").focus()
        assert await first.locator(".doc .lit").all_inner_texts() == [source]


async def test_doubts_are_told(browser: Browser) -> None:
    async with canned(browser, _story()) as page:
        await fill(page, "pasta in the mountains", ASKED, mode="evidence")
        await page.click("#run")
        await expect(page.locator("#status")).to_contain_text("evidence for 1")
        claim = page.locator(".unsupported")
        assert await claim.all_inner_texts() == ["25 minutes"]
        assert await claim.get_attribute("title") == "The document does not say this number"
        assert "wavy" in await claim.evaluate("one => getComputedStyle(one).textDecoration")
        rows = page.locator("li")
        await expect(rows.nth(0)).to_contain_text("62% supported by the document")
        await expect(rows.nth(0)).to_contain_text("says what the document does not")
        await expect(rows.nth(1)).to_contain_text("neutralised")
        await expect(rows.nth(2)).to_contain_text("read 512/2,310 tokens")
        await expect(rows.nth(2).locator(".badge.warn").first).to_have_text("label mass 2%: neither yes nor no")
        await expect(rows.nth(3)).to_contain_text("not scored before the deadline")
        await expect(page.locator("#stats")).to_contain_text("820 prompt = 512 cached + 308 computed; 52 output")


@pytest.mark.parametrize(
    ("name", "scheme", "width"), [("light", "light", 1280), ("dark", "dark", 1280), ("mobile", "light", 375)]
)
async def test_looks(browser: Browser, name: str, scheme: Any, width: int) -> None:
    viewport: Any = {"width": width, "height": 900}
    async with canned(browser, _story(), color_scheme=scheme, viewport=viewport) as page:
        await page.get_by_role("button", name="load an example").click()
        await expect(page.locator("#read-as")).to_have_text("8 documents, read as JSON lines")
        await expect(page.locator("#evidence_top_n")).to_be_hidden()
        await picture(page, f"{name}-example")
        await fill(page, "Why does pasta take longer in the mountains?", ASKED, mode="evidence")
        await page.click("#run")
        await expect(page.locator("#status")).to_contain_text("evidence for 1")
        await page.locator(".sentence").hover()
        await page.wait_for_timeout(400 if PICTURES else 0)
        await picture(page, name)
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
        light = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (light == "rgb(20, 22, 24)") == (scheme == "dark")


@pytest.mark.parametrize(
    ("text", "how", "count"),
    [
        ("one\ntwo\n", "one per line", 2),
        ("one\nstill one\n \n\ntwo", "blocks between empty lines", 2),
        ('{"text": "a"}\n\n{"text": "b"}', "JSON lines", 2),
        ('["a", {"text": "b"}]', "a JSON list", 2),
        ("[1] a footnote", "one per line", 1),
    ],
)
async def test_documents_are_detected(browser: Browser, text: str, how: str, count: int) -> None:
    async with canned(browser, []) as page:
        await page.fill("#documents", text)
        await expect(page.locator("#read-as")).to_contain_text(f"{count} document")
        await expect(page.locator("#read-as")).to_contain_text(how)
