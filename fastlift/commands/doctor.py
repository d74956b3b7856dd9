"""``fastlift doctor``."""

from __future__ import annotations

import json
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

    found = doctor.report()
    if command.json:
        print(json.dumps(found))
    else:
        from rich.console import Console

        Console().print(doctor.render(found))
    return 0
