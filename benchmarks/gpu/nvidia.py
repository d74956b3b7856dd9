"""What nvidia-smi tells of the card: before a run, and after each of its parts."""

from __future__ import annotations

import os
import subprocess

ASKED = (
    "name",
    "driver_version",
    "clocks.sm",
    "clocks.max.sm",
    "clocks.mem",
    "power.draw",
    "power.limit",
    "temperature.gpu",
)


def nvidia_smi() -> dict[str, str]:
    """Driver, clocks in MHz, power in W, temperature in degrees, as nvidia-smi tells them; empty where it is not there."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0]
    command = ["nvidia-smi", f"--query-gpu={','.join(ASKED)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            command + ([f"--id={visible}"] if visible else []), capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    told = done.stdout.strip().splitlines()
    return dict(zip(ASKED, (value.strip() for value in told[0].split(",")), strict=False)) if told else {}
