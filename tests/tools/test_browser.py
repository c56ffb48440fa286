"""The page in Debian's chromium: what it shows, and that nothing a node writes is executed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from lines import event, plain
from nats_nodes import finish, hour_paths, node
from running import PATIENCE_S, Serve, serve, wait_for

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_MS = PATIENCE_S * 1000
PICTURES = ROOT / "docs" / "page"
"""Taken anew with FASTTAIL_TAKE_PICTURES=1."""

LOST = "ERR_CONNECTION_REFUSED|WebSocket connection"
STREAMS = ("--streams", "orders,fills")
HOSTILE = """<img src=x onerror=executed=1>'${executed=1}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    missing = [name for name in ("playwright", "axe_playwright_python") if find_spec(name) is None]
    if chromium is None or missing:
        text = "needs chromium (Debian: apt-get install chromium), playwright and axe-playwright-python (pip)"
        assert os.environ.get("FASTTAIL_NEED_BROWSER") != "1", text
        pytest.skip(text)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield running
        running.close()


@contextmanager
def opened(
    browser: Browser, server: Serve, *, width: int = 1280, height: int = 900, scheme: Any = "light"
) -> Iterator[Page]:
    """Open the page. Fails afterwards if it has reported an error, but for lost connections."""
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))

    def on_console(message: ConsoleMessage) -> None:
        if message.type == "error" and not re.search(LOST, message.text):
            errors.append(message.text)

    page.on("console", on_console)
    page.goto(f"http://127.0.0.1:{server.port}/")
    yield page
    context.close()
    assert errors == []


@contextmanager
def live(
    folder: Path, browser: Browser, *, rate: int = 3000, **look: Any
) -> Iterator[tuple[subprocess.Popen[bytes], Serve, Page]]:
    """Run a simulated node and a server, and open the page, whose tape is full."""
    with (
        node(folder, *STREAMS, rate=rate) as writing,
        serve(folder, "--workers", 1) as server,
        opened(browser, server, **look) as page,
    ):
        wait_for("the tape", lambda: len(tape(page)) > 50)
        yield writing, server, page


def tile(page: Page, name: str) -> str:
    """Return the text of a figure of the overview."""
    return str(page.locator("#tiles div", has=page.get_by_text(name, exact=True)).locator("dd").inner_text())


def wait_tile(page: Page, name: str, text: str) -> None:
    wait_for(f"{name} {text}", lambda: page.locator("#tiles dd").count() and tile(page, name) == text)


def tape(page: Page) -> list[list[str]]:
    """Return the texts of the visible rows of the tape."""
    return list(
        page.locator("#tape tr").evaluate_all(
            "rows => rows.filter(row => !row.hidden).map(row => [...row.cells].map(cell => cell.textContent))"
        )
    )


def test_figures_are_those_of_the_exchange(tmp_path: Path, browser: Browser) -> None:
    """Totals equal those of /metrics and of the node's files, and filters and buttons work."""
    folder = tmp_path / "node"
    with live(folder, browser) as (writing, server, page):
        page.select_option("#filter-kind", "trade")
        wait_for("trades", lambda: {row[1] for row in tape(page)} == {"trade"})
        page.select_option("#filter-kind", "")
        page.fill("#filter-coins", "BTC, ETH")
        page.select_option("#filter-side", "A")
        wait_for(
            "sales of both",
            lambda: {(row[2], row[3]) for row in tape(page)} == {("BTC", "sell"), ("ETH", "sell")},
        )
        page.fill("#filter-notional", "5000")
        wait_for(
            "large ones",
            lambda: tape(page) and all(float(row[4]) * float(row[5]) >= 5000 for row in tape(page)),
        )
        page.focus("[data-sort=notional]")
        page.keyboard.press("Enter")
        wait_for("the order", lambda: page.get_attribute("[data-sort=notional]", "aria-pressed") == "true")
        wait_for("the first coin", lambda: is_sorted(page, 3))
        finish(writing)
        server_lines = wait_read(folder, server)
        wait_tile(page, "orders in all", f"{server_lines:,}")
        trades = int(server.metric("fasttail_trades_total"))
        wait_tile(page, "trades in all", f"{trades:,}")
        wait_for("silence in words", lambda: "The node has written nothing for" in page.inner_text("#health"))


def is_sorted(page: Page, column: int) -> bool:
    texts = page.locator(f"#coins td:nth-child({column + 1})").all_inner_texts()
    values = [float(text.replace(",", "")) for text in texts]
    return len(values) > 3 and values == sorted(values, reverse=True)


def wait_read(folder: Path, server: Serve) -> int:
    """Wait until the server has read all that it follows, and return its count of orders."""
    path = hour_paths(folder)[-1]
    wait_for("the newest file", lambda: json.loads(server.get("/health")[1])["state"] == "live")
    server.wait_log(f"following {path} from byte")
    server.wait_metric("fasttail_file_offset_bytes", path.stat().st_size)
    return int(server.metric("fasttail_orders_total"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_themes_widths_and_accessibility(tmp_path: Path, browser: Browser, width: int, scheme: str) -> None:
    folder = tmp_path / "node"
    with live(folder, browser, width=width, scheme=scheme) as (_, _, page):
        wait_for(
            "the charts", lambda: "orders" in (page.get_attribute("#charts [role=img]", "aria-label") or "")
        )
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        from axe_playwright_python.sync_playwright import Axe

        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(13, 17, 23)"}[scheme]
        if os.environ.get("FASTTAIL_TAKE_PICTURES") and (width, scheme) != (360, "dark"):
            PICTURES.mkdir(exist_ok=True)
            time.sleep(60)  # for curves
            page.screenshot(path=PICTURES / f"{scheme}-{width}.png", full_page=width > 400)


def test_the_server_is_restarted(tmp_path: Path, browser: Browser) -> None:
    folder = tmp_path / "node"
    with live(folder, browser) as (_, server, page):
        server.process.send_signal(signal.SIGTERM)
        server.process.wait()
        wait_for("the news", lambda: "Trying again" in page.inner_text("#connection"))
        assert page.inner_text("#health-state") == "Attention: not connected."
        with serve(folder, "--workers", 1, "--port", server.port):
            wait_for("the connection", lambda: page.inner_text("#connection") == "Connected")
            before = tape(page)
            wait_for("new events", lambda: tape(page) != before)


def test_silence_is_noticed(tmp_path: Path, browser: Browser) -> None:
    """A connection that is open and dead, as after a laptop has slept, is given up."""
    folder = tmp_path / "node"
    with live(folder, browser) as (_, server, page):
        server.process.send_signal(signal.SIGSTOP)
        try:
            wait_for("the news", lambda: "Trying again" in page.inner_text("#connection"))
        finally:
            server.process.send_signal(signal.SIGCONT)
        wait_for("the connection", lambda: page.inner_text("#connection") == "Connected")
        wait_tile(page, "clients", "1")


def test_what_a_node_writes_is_not_executed(tmp_path: Path, browser: Browser) -> None:
    """Hostile texts in every field, in the reasons of faults, and in names that the page builds rows of."""
    path = tmp_path / "node_order_statuses/hourly/20260505/17"
    path.parent.mkdir(parents=True)
    path.touch()
    with serve(tmp_path, "--workers", 1) as server, opened(browser, server) as page:
        wait_for("a summary", lambda: page.locator("#tiles dd").count())
        hostile = [
            event(oid=n, limitPx=f"{n}.5", sz="1000000", **{field: HOSTILE})
            for n, field in enumerate(
                ("builder", "orderType", "tif", "cloid", "hash", "user", "status", "coin"), 1
            )
        ]
        with path.open("ab") as file:
            file.write(
                plain(*hostile) + b"\n".join([HOSTILE.encode(), json.dumps(HOSTILE).encode(), b"{}"]) + b"\n"
            )
        wait_for("a hostile coin", lambda: any(row[2] == HOSTILE for row in tape(page)))
        wait_for("a hostile status", lambda: any(row[1] == HOSTILE for row in tape(page)))
        wait_for(
            "it among the coins", lambda: HOSTILE in page.locator("#coins td:first-child").all_inner_texts()
        )
        wait_for("the rejected lines", lambda: server.metric("fasttail_rejected_lines_total") >= 3)
        page.fill("#filter-coins", HOSTILE)
        page.wait_for_timeout(1500)
        assert page.evaluate("window.executed") is None
        assert page.locator("main img, main script").count() == 0


def test_token(tmp_path: Path, browser: Browser) -> None:
    """Asked for once, kept in sessionStorage, and in no log."""
    secret = "a-secret-of-some-length"
    (tmp_path / "token").write_text(secret)
    (tmp_path / "token").chmod(0o600)
    folder = tmp_path / "node"
    folder.mkdir()
    with serve(folder, "--token-file", tmp_path / "token") as server:
        context = browser.new_context()
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.goto(f"http://127.0.0.1:{server.port}/")
        page.get_by_label("This server asks for its token").fill("another-secret-of-it")
        page.keyboard.press("Enter")
        page.get_by_text("This token is wrong.").wait_for()
        page.get_by_label("This server asks for its token").fill("“no token”")
        page.keyboard.press("Enter")
        page.get_by_text("A token has no blanks").wait_for()
        page.get_by_label("This server asks for its token").fill(f" {secret} ")
        page.evaluate("for (let i = 0; i < 3; i++) document.querySelector('#token-form button').click()")
        wait_tile(page, "clients", "1")
        wait_for("the connection", lambda: page.inner_text("#connection") == "Connected")
        page.reload()
        wait_for("it again", lambda: page.inner_text("#connection") == "Connected")
        assert page.evaluate("sessionStorage.getItem('fasttail-token')") == secret
        context.close()
        assert not server.find(secret)
        assert not server.find("another-secret")


def test_work_of_the_page(tmp_path: Path, browser: Browser) -> None:
    """The page's thread computes little, by CPU time: by the clock, tasks take longer on a busy machine."""
    folder = tmp_path / "node"
    with live(folder, browser, rate=20_000) as (_, _, page):
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable", {"timeDomain": "threadTicks"})

        def work() -> float:
            values = session.send("Performance.getMetrics")["metrics"]
            return float(next(each["value"] for each in values if each["name"] == "TaskDuration"))

        page.evaluate(
            """() => {
                window.longest = 0;
                new PerformanceObserver(list => {
                    const durations = list.getEntries().map(each => each.duration);
                    window.longest = Math.max(window.longest, ...durations);
                }).observe({ type: "longtask" });
            }"""
        )
        before, begun = work(), time.monotonic()
        page.wait_for_timeout(30_000)
        used, messages = work() - before, 6 * (time.monotonic() - begun)
        longest = page.evaluate("window.longest")
        print(f"{1e3 * used / messages:.1f} ms of CPU for a message, longest task {longest} ms")
        assert used / messages < 0.050
