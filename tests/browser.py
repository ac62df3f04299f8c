"""A real browser for tests.

Playwright's synchronous calls keep an event loop running in their thread, where `asyncio.run` then fails: so the
browser has a thread of its own, and tests that are marked with `@in_browser` run there. It is Debian's chromium, or the
one that `DURABLE_GRAPH_TEST_CHROMIUM` names; where there is none, these tests are skipped and say so.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Browser, BrowserContext, Page, Request

SIZE = {"width": 1280, "height": 800}
PATIENCE = 20_000  # milliseconds until a wait counts as failed: never reached when all is well
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
]  # fmt: skip


def chromium() -> str | None:
    named = os.environ.get("DURABLE_GRAPH_TEST_CHROMIUM")
    return named or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def in_browser(test: Callable[..., None]) -> Callable[..., None]:
    """The test's body runs in the thread of its fixture `visitor`."""

    @functools.wraps(test)
    def run(*args: Any, **fixtures: Any) -> None:
        fixtures["visitor"].run(lambda: test(*args, **fixtures))

    return run


class Chromium:
    """The browser in its thread."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, "browser")
        self._opened: Any = None
        self.browser: Browser | None = None

    def run(self, call: Callable[[], Any]) -> Any:
        return self._thread.submit(call).result()

    def open(self) -> None:
        self._opened = playwright.sync_playwright().start()
        playwright.expect.set_options(timeout=PATIENCE)
        self.browser = self._opened.chromium.launch(executable_path=self._path, args=FLAGS)

    def close(self) -> None:
        if self.browser is not None:
            self.browser.close()
        if self._opened is not None:
            self._opened.stop()

    def end(self) -> None:
        self._thread.shutdown()


class Visitor:
    """Somebody with a fresh profile, whose requests and troubles are noted."""

    def __init__(self, chromium: Chromium) -> None:
        self.chromium = chromium
        self.requests: list[str] = []
        self.troubles: list[str] = []
        self.bytes = 0
        self._contexts: list[BrowserContext] = []

    def run(self, call: Callable[[], None]) -> None:
        self.chromium.run(call)

    def visit(self, url: str, **settings: Any) -> Page:
        """A page of a fresh context. settings: color_scheme, viewport ..."""
        assert self.chromium.browser is not None
        context = self.chromium.browser.new_context(**{"viewport": SIZE, "accept_downloads": True, **settings})
        context.set_default_timeout(PATIENCE)
        self._contexts.append(context)
        page = context.new_page()
        page.on("request", self._asked)
        page.on("requestfailed", self._failed)
        page.on("pageerror", lambda error: self.troubles.append(f"error: {error}"))
        page.on("dialog", lambda dialog: self._dialog(dialog))
        page.on("console", lambda said: self.troubles.append(said.text) if said.type in ("error", "warning") else None)
        page.goto(url)
        return page

    def _asked(self, request: Request) -> None:
        self.requests.append(request.url)

    def _failed(self, request: Request) -> None:
        if request.failure == "csp":
            self.requests.remove(request.url)  # the page's policy has kept it from being sent

    def _dialog(self, dialog: Any) -> None:
        self.troubles.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def asked(self, path: str) -> list[str]:
        """The requests for a path, so far."""
        return [url for url in self.requests if urlsplit(url).path.endswith(path)]

    def expect(self, status: int) -> None:
        """The browser itself remarks on an answer that is an error: take such remarks away."""
        self.troubles = [
            told for told in self.troubles if f"the server responded with a status of {status}" not in told
        ]

    def leave(self) -> None:
        for context in self._contexts:
            context.close()

    def check(self) -> None:
        hosts = {urlsplit(url).hostname for url in self.requests if not url.startswith("blob:")}
        assert hosts <= {"127.0.0.1"}, "the page has asked another host"
        assert self.troubles == []


def picture(page: Page, folder: Path, name: str) -> None:
    """Keep a picture for a person to look at, if DURABLE_GRAPH_SCREENSHOTS says so."""
    if os.environ.get("DURABLE_GRAPH_SCREENSHOTS"):
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.png").write_bytes(page.screenshot(animations="disabled"))
