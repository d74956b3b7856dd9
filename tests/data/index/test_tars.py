"""Members of tars by their headers: the same as Python's tarfile finds, and nothing that hostile tars claim."""

import io
import random
import tarfile
from pathlib import Path
from typing import Any

import pytest

from fastlift.data.index.tars import Member, TarError, members

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def found(data: bytes) -> list[Member]:
    return list(members(len(data), lambda offset, count: data[offset : offset + count]))


def tar_of(entries: list[tuple[Any, bytes]], form: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar of (name or TarInfo, content)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, data in entries:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def entry(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_names_and_places_are_those_of_tarfile(form: int) -> None:
    draw = random.Random(0)
    names = [f"{k:03d}.jpg" for k in range(20)] + ["a/" + "b" * 90 + "/x.cls", "ünï/ç.jpg", "d" * 80 + "/" + "e" * 90]
    if form != tarfile.USTAR_FORMAT:
        names += ["l" * 300 + ".jpg", "d" * 80 + "/" + "e" * 140 + ".png", "after.jpg"]
    entries = [(name, draw.randbytes(draw.choice([0, 1, 511, 512, 513, 5000]))) for name in names]
    data = tar_of(entries, form)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        expected = [(one.name, one.offset_data, one.size) for one in tar]
    assert [tuple(one) for one in found(data)] == expected
    assert [data[one.offset : one.offset + one.size] for one in found(data)] == [content for _, content in entries]


def summed(block: bytearray, signed: bool = False) -> bytes:
    """A header with the sum of its bytes."""
    rest = block[:148] + b" " * 8 + block[156:]
    return bytes(block[:148]) + b"%06o\0 " % (sum(rest) - 256 * signed * sum(byte > 127 for byte in rest)) + block[156:]


def test_sums_of_signed_bytes_are_taken_too() -> None:
    data = bytearray(tar_of([("ünï.jpg", b"good")], tarfile.GNU_FORMAT))
    data[:512] = summed(data[:512], signed=True)
    assert [one.name for one in found(bytes(data))] == ["ünï.jpg"]


def test_what_is_no_plain_file_is_passed_over() -> None:
    kinds = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE]
    entries: list[tuple[Any, bytes]] = [(entry(f"{k}.jpg", kind, "/etc/passwd"), b"") for k, kind in enumerate(kinds)]
    data = tar_of([*entries, ("good.jpg", b"good")])
    assert [one.name for one in found(data)] == ["good.jpg"]


def test_sparse_files_are_passed_over(tmp_path: Path) -> None:
    """GNU's own form, with a map that goes on in a second block, and pax's."""
    old = bytearray(tarfile.TarInfo("sparse.jpg").tobuf(tarfile.GNU_FORMAT))
    old[156:157], old[482:483] = b"S", b"\1"
    old[124:136] = b"%011o\0" % 600
    old[148:156] = b"%06o\0 " % sum(old[:148] + b" " * 8 + old[156:])
    more = bytes(512)
    after = tar_of([("good.jpg", b"good")])
    assert [one.name for one in found(bytes(old) + more + b"x" * 1024 + after)] == ["good.jpg"]
    pax = tarfile.TarInfo("sparse.jpg")
    pax.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "s.jpg"}
    assert [one.name for one in found(tar_of([(pax, b"0\n"), ("good.jpg", b"good")]))] == ["good.jpg"]


def test_sizes_of_pax_and_large_binary_sizes() -> None:
    info = tarfile.TarInfo("a.jpg")
    info.pax_headers = {"size": "3"}
    data = bytearray(tar_of([(info, b"abc"), ("b.jpg", b"b")]))
    data[1024 + 124 : 1024 + 136] = b"%011o\0" % 0  # behind the pax header and its block
    data[1024:1536] = summed(data[1024:1536])
    assert [(one.name, one.size) for one in found(bytes(data))] == [("a.jpg", 3), ("b.jpg", 1)]
    block = bytearray(tarfile.TarInfo("big.jpg").tobuf(tarfile.GNU_FORMAT))
    block[124:136] = b"\x80" + (2**40).to_bytes(11, "big")
    block[148:156] = b"%06o\0 " % sum(block[:148] + b" " * 8 + block[156:])
    size = 2**41
    header = bytes(block)
    places = members(size, lambda offset, count: (header if offset == 0 else bytes(512))[:count])
    assert list(places) == [Member("big.jpg", 512, 2**40)]


def test_a_tar_that_is_cut_anywhere_is_told() -> None:
    data = tar_of([("a.jpg", b"x" * 700), ("l" * 200 + ".jpg", b"y" * 10)])
    whole = data.rstrip(b"\0")
    end = -(-len(whole) // 512) * 512
    for cut in range(0, end, 64):
        before: list[Member] = []
        part = data[:cut]
        with pytest.raises(TarError, match="truncated"):
            before.extend(members(cut, lambda offset, count, part=part: part[offset : offset + count]))
        assert all(one.offset + one.size <= cut for one in before)
    assert len(found(data[: end + 512])) == 2


def test_no_flipped_bit_makes_a_member_outside_of_the_file() -> None:
    whole, told = tar_of([("a.jpg", b"x" * 100), ("l" * 120 + ".jpg", b"y")])[: 9 * 512], 0
    for place in range(len(whole)):
        data = bytearray(whole)
        data[place] ^= 1 << place % 8
        try:
            for one in found(bytes(data)):
                assert 0 <= one.offset <= one.offset + one.size <= len(whole)
        except TarError:
            told += 1
    assert told > 1000  # every byte of a header counts in its sum


@pytest.mark.parametrize("data", [b"x" * 512, b"<html>" + b" " * 1018, b"", b"\x1f\x8b" + bytes(600)])
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(TarError, match=r"no tar file|truncated"):
        found(data)


def test_a_long_name_of_gigabytes_is_refused() -> None:
    block = bytearray(entry("@LongLink", b"L").tobuf(tarfile.GNU_FORMAT))
    block[124:136] = b"%011o\0" % 2**30
    block[148:156] = b"%06o\0 " % sum(block[:148] + b" " * 8 + block[156:])
    header = bytes(block)
    with pytest.raises(TarError, match="header of 1,073,741,824 bytes"):
        list(members(2**40, lambda offset, count: header[:count] if offset == 0 else bytes(count)))
