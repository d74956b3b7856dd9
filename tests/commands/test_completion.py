"""Completion in real shells."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from fastlift.cli import COMMANDS, main
from fastlift.commands.completion import script


@pytest.fixture(scope="module")
def bash() -> str:
    return script("bash")


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("tr", ["train"]),
        ("train --data-r", ["--data-root"]),
        ("train --amp ", ["auto", "bf16", "fp16", "fp32"]),
        ("train --loss L", ["LDAM", "LA", "LADE"]),
        ("train --recipe lift", ["lift", "lift_plus"]),
        ("train --fused ", ["attention", "mlp"]),
        ("train --dataset image", ["imagenet_lt"]),
        ("data s", ["stats"]),
        ("data pack --short", ["--short-side"]),
        ("evaluate --tte five", ["fivecrop"]),
        ("completion --", []),
        ("predict some_f", ["some_file.jpg"]),
    ],
)
def test_words_in_bash(typed: str, expected: list[str], bash: str, tmp_path: Path) -> None:
    (tmp_path / "some_file.jpg").touch()
    words = ["fastlift", *typed.split(" ")]
    asked = f'{bash}\nCOMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _fastlift; printf "%s\\n" "${{COMPREPLY[@]}}"'
    done = subprocess.run(
        ["bash", "--norc", "-c", asked, "bash", *words], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert (done.stdout.split(), done.stderr) == (expected, "")


def test_every_command_is_offered(bash: str) -> None:
    assert f"compgen -W '{' '.join(COMMANDS)}'" in bash
    assert "--help-all" not in bash


def test_flags_are_those_of_the_help(
    bash: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    offered = re.findall(r'^    "([a-z -]+)"\) flags=\'(.*)\' ;;$', bash, re.MULTILINE)
    assert {words.split()[0] for words, _ in offered} == set(COMMANDS)
    for words, flags in offered:
        with pytest.raises(SystemExit):
            main([*words.split(), "--help-all"])
        named = re.findall(r"--[a-z0-9-]+", capsys.readouterr().out)
        assert set(flags.split()) <= set(named), words


@pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh on this machine")
def test_zsh_reads_its_script() -> None:
    done = subprocess.run(
        ["zsh", "-f", "-c", f"autoload -U compinit && compinit -u -D\n{script('zsh')}\nprint -r -- ${{_comps[fastlift]}}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert (done.stdout.strip(), done.stderr) == ("_bash_complete -o filenames -F _fastlift", "")


def test_the_command_prints_it(bash: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    assert capsys.readouterr().out == bash
