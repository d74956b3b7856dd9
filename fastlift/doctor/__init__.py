"""``fastlift doctor``: what this machine has, what fastlift will use of it, what is missing and what that costs.

``facts`` finds the facts, ``choices`` what "auto" comes to, ``advice`` is a function of them, ``show`` prints it all. Parts
are imported only when they are asked, so that a broken one is described. Imports ``errors``, ``system``, ``data`` and
``models``. Imported by ``commands``.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastlift.doctor.advice import advise
from fastlift.doctor.choices import automatic_choices
from fastlift.doctor.facts import machine_facts, software_facts
from fastlift.doctor.show import render

__all__ = ["render", "report"]


def report() -> dict[str, Any]:
    """Everything found, as plain dicts, lists, strings and numbers for JSON.

    Keys: ``python system cpu memory gpus cuda packages kernels cache shipped_clip choices`` and ``advice``, a list of
    {"severity", "what", "cost", "fix"} with the severities of `fastlift.doctor.advice.SEVERITIES`.

    Nothing is downloaded or written, and a part that is broken is described rather than raised.
    """
    facts = {**machine_facts(), **software_facts(), "choices": automatic_choices()}
    return {**facts, "advice": [asdict(entry) for entry in advise(facts)]}
