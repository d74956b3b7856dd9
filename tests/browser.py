"""A headless Chromium for tests of pages; they are skipped, with the reason, where there is none.

Playwright comes with the ``test`` extra, the browser does not: ``apt-get install chromium``, or $FASTLIFT_CHROMIUM names one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# No sandbox, for containers whose only user is root; nothing is asked of any host but the one that is tested.
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


@pytest.fixture
def browser() -> Iterator[Any]:
    """A browser of Playwright's; of each test its own, since its loop would be in the way of others in the same thread."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = os.environ.get("FASTLIFT_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium, or $FASTLIFT_CHROMIUM)")
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        try:
            yield launched
        finally:
            launched.close()
