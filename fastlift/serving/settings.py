"""What a server takes, and for how long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastlift.settings import Between, Settings


@dataclass(frozen=True)
class ServingSettings(Settings):
    """The limits of a server."""

    max_megabytes: Annotated[float, Between(0, 1024, "(]", "megabytes above 0, at most 1024")] = 20.0
    """The largest image file that is taken, in megabytes; larger ones are answered with 413."""
    max_megapixels: Annotated[float, Between(0, 178, "(]", "megapixels above 0, at most 178")] = 50.0
    """The largest image that is taken, in million pixels: a small file may hold a huge one. Others are answered with 413."""
    seconds: Annotated[float, Between(0, 3600, "(]", "seconds above 0, at most 3600")] = 30.0
    """How long a request may take to come (408), and then to be answered (503)."""
    waiting: Annotated[int, Between(1, 65536)] = 64
    """Images that are in work or wait; further ones are answered with 503 at once."""

    @property
    def most_bytes(self) -> int:
        """``max_megabytes`` in bytes."""
        return int(self.max_megabytes * 1e6)

    @property
    def most_pixels(self) -> int:
        """``max_megapixels`` in pixels."""
        return int(self.max_megapixels * 1e6)
