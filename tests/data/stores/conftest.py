"""A web server as a store, and stores that are asked again at once."""

import pytest
from web_server import web as web

from fastlift.data.stores import client


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "WAITS_S", (0.0, 0.0))
