"""What a launcher tells in the environment, and the command that starts as many processes again."""

import pytest

from fastlift import launcher


@pytest.mark.parametrize(
    ("environment", "command"),
    [
        ({}, "fastlift"),
        ({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}, "fastlift"),
        ({"RANK": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "8"}, "torchrun --nproc-per-node 8 -m fastlift"),
        ({"RANK": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}, "torchrun ... -m fastlift"),  # of several machines
        ({"RANK": "1", "WORLD_SIZE": "8"}, "fastlift"),  # another launcher: any number of processes goes on
    ],
)
def test_the_command_that_starts_as_many(
    environment: dict[str, str], command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert launcher.command() == command
