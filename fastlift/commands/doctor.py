"""``fastlift doctor``."""

from __future__ import annotations

from dataclasses import dataclass

from fastlift.commands.parsing import parse


@dataclass(frozen=True)
class Doctor:
    """What this machine has, what fastlift will use of it, and what is missing and costs speed."""

    json: bool = False
    """Print as JSON."""


def run(arguments: list[str]) -> int:
    """Look, and tell."""
    command = parse(Doctor, arguments, "doctor", examples=("fastlift doctor", "fastlift doctor --json"))
    from fastlift import doctor
    from fastlift.reporting.console import show_result

    found = doctor.report()
    show_result(found, doctor.render(found), command.json)
    return 0
