"""Few bytes at many places of a large file of a store: what is read is what lies there, and little is asked for."""

import random
from pathlib import Path

import pytest
from web_server import WebServer

from fastlift.data.stores import random_access
from fastlift.data.stores.cache import DataCache
from fastlift.data.stores.cached import Session
from fastlift.data.stores.random_access import opened
from fastlift.data.stores.url import Url

SIZE = 10_500


@pytest.fixture
def content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """That of the file ``large``, which has eleven blocks."""
    monkeypatch.setattr(random_access, "BLOCK_BYTES", 1000)
    (tmp_path / "large").write_bytes(data := random.Random(0).randbytes(SIZE))
    return data


def places(count: int) -> list[tuple[int, int]]:
    """Offsets that rise, and bytes from each on: some of them pass the end of a block, some that of the file."""
    draw = random.Random(1)
    return [(offset, draw.choice([1, 100, 900])) for offset in sorted(draw.choices(range(SIZE), k=count))]


def test_what_is_read_is_what_lies_there(content: bytes, web: WebServer, tmp_path: Path) -> None:
    for place in (tmp_path / "large", Url(f"{web.url}/large")):
        with opened(place) as file:
            assert file.size == SIZE
            for offset, count in [*places(100), (0, 5000), (3, 0), (SIZE - 1, 10), (SIZE, 10), (0, 10)]:
                assert file.read(offset, count) == content[offset : offset + count]


def test_a_block_is_asked_for_once_and_only_where_something_is_read(content: bytes, web: WebServer) -> None:
    with opened(Url(f"{web.url}/large")) as file:
        for offset, count in places(100):
            file.read(offset, count)
        assert sorted(one.start for one in web.asked if one.start is not None) == list(range(0, SIZE, 1000))
        web.asked.clear()
        file.read(2500, 500)
    assert [(one.start, one.stop) for one in web.asked] == [(2000, 3000)]


def test_a_disk_that_is_full_is_tried_once(
    content: bytes, web: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not for each read, which would fetch what the disk still takes of the file anew."""
    tried: list[str] = []
    monkeypatch.setattr(DataCache, "put_large", lambda self, key, size, write: tried.append(key))
    with opened(Url(f"{web.url}/large", Session(DataCache(tmp_path / "cache", 10**6)))) as file:
        assert [file.read(*place) for place in places(20)] == [content[o : o + n] for o, n in places(20)]
    assert len(tried) == 1


def test_a_small_file_comes_as_a_whole(content: bytes, web: WebServer, tmp_path: Path) -> None:
    with opened(Url(f"{web.url}/large", Session(DataCache(tmp_path / "cache", 10**6)))) as file:
        assert [file.read(*place) for place in places(20)] == [content[o : o + n] for o, n in places(20)]
    assert web.sent() == SIZE
