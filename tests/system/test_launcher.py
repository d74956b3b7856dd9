"""What a launcher tells in the environment, and the command that starts as many processes again."""

import pytest

from fastlift import cli
from fastlift.system import launcher


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


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"RANK": "0", "WORLD_SIZE": "two"}, "WORLD_SIZE='two'"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK='-1'"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "not where they meet: use torchrun, or unset RANK"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "x"}, "not where they meet"),
    ],
)
def test_an_environment_that_no_launcher_made(
    environment: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cli.main(["train"]) == 2
    assert said in capsys.readouterr().err
