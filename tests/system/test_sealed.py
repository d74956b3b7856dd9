"""Tensor files with a digest: no bit of them changes unseen, and nothing that is read from one is a surprise."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fastlift.errors import UserError
from fastlift.system import sealed

TENSORS = {
    "a": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "b": torch.tensor([True, False]),
    "empty": torch.zeros(0),
}
TEXTS = {"place": '{"epoch": 3, "blake2b": "no"}', "name": "naïve \U0001f600"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    sealed.write(tmp_path / "file.safetensors", TENSORS, TEXTS)
    return tmp_path / "file.safetensors"


def test_it_is_a_safetensors_file(path: Path) -> None:
    tensors, texts = sealed.read(path)
    assert {name: text for name, text in texts.items() if name != "blake2b"} == TEXTS
    assert sealed.read_metadata(path) == texts
    assert all(tensor.data_ptr() % 64 == 0 for tensor in tensors.values() if tensor.numel())
    for read in (tensors, load_file(path)):
        assert read.keys() == TENSORS.keys()
        assert all(torch.equal(read[name], tensor) for name, tensor in TENSORS.items())


def test_every_flipped_bit_is_seen(path: Path) -> None:
    """Each bit of the file: lengths, names, spaces of the header, the digest itself, texts, numbers."""
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(sealed.Damaged):
            sealed.read(path)
    path.write_bytes(whole)
    sealed.read(path)


def test_every_missing_end_and_every_addition_is_seen(path: Path) -> None:
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(sealed.Damaged):
            sealed.read(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(sealed.Damaged):
        sealed.read(path)


def test_random_bytes_are_damage(path: Path) -> None:
    rng = np.random.Generator(np.random.Philox(1))
    for size in range(0, 400, 7):
        path.write_bytes(rng.bytes(size))
        with pytest.raises(sealed.Damaged):
            sealed.read(path)
        with pytest.raises(sealed.Damaged):
            sealed.read_metadata(path)


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"__metadata__":{"blake2b":"'
        + b"0" * 64
        + b'"},"a":{"dtype":"F32","shape":[1'
        + b"0" * 5000
        + b'],"data_offsets":[0,4]}}',
        b'{"__metadata__":{"blake2b":"'
        + b"0" * 64
        + b'"},"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4]}}',
        b'{"__metadata__":{"blake2b":"' + b"0" * 64 + b'"},"a":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}}',
        b'{"__metadata__":{"blake2b":"'
        + b"0" * 64
        + b'"},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,99999999]}}',
    ],
    ids=["nested", "nested objects", "digits", "giant", "dtype", "offsets"],
)
def test_hostile_headers_with_a_true_digest(path: Path, header: bytes) -> None:
    """Somebody who makes such a file can make its digest too; it is an error, without a traceback or a giant allocation."""
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 4)
    if b"blake2b" in header:
        with path.open("r+b") as file:
            place = sealed._place_of_digest(file, path)
            digest = sealed._digest(file, place)
            file.seek(place)
            file.write(digest)
    with pytest.raises(sealed.Damaged):
        sealed.read(path)


@pytest.mark.parametrize("length", [0, 1, 2**63, 2**64 - 1, 100_000_001])
def test_impossible_lengths_are_not_read(path: Path, length: int) -> None:
    path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])
    with pytest.raises(sealed.Damaged):
        sealed.read(path)


def test_files_without_a_digest_are_not_trusted(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "plain.safetensors", metadata={"said": json.dumps({"blake2b": "0" * 64})})
    with pytest.raises(sealed.Damaged, match="no digest"):
        sealed.read(tmp_path / "plain.safetensors")
    with pytest.raises(UserError, match="does not exist"):
        sealed.read(tmp_path / "nowhere.safetensors")
    with pytest.raises(UserError, match="cannot be read"):
        sealed.read(tmp_path)
