"""Settings of the machine: what they refuse, and that threads are given back."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import torch

from fastlift.errors import UserError
from fastlift.system.settings import DeviceSettings, MemorySettings, SeedSettings, ThreadSettings


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (ThreadSettings, {"threads": 0}, "threads: expected a whole number from 1 to 1024, got 0"),
        (ThreadSettings, {"threads": 5000}, "threads: expected a whole number from 1 to 1024, got 5000"),
        (SeedSettings, {"seed": -1}, r"seed: expected a whole number from 0 to 2\^63 - 1, got -1"),
        (SeedSettings, {"seed": 2**63}, r"seed: expected a whole number from 0 to 2\^63 - 1, got 9223372036854775808"),
        (MemorySettings, {"memory": "chekc"}, "unknown value of memory 'chekc'; did you mean check"),
    ],
)
def test_refused(kind: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        kind(**values)


def test_threads_are_set_meanwhile_and_given_back() -> None:
    before = torch.get_num_threads()
    with suppress(KeyError), ThreadSettings(before + 1).use() as threads:
        assert threads == torch.get_num_threads() == before + 1
        raise KeyError
    assert torch.get_num_threads() == before
    with ThreadSettings().use() as threads:
        assert threads == before


def test_a_device_is_built_or_refused() -> None:
    assert DeviceSettings("cpu").build() == torch.device("cpu")
    with pytest.raises(UserError, match="device 'gpu': expected auto, cpu, cuda or cuda:N"):
        DeviceSettings("gpu").build()
