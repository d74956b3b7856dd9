"""Small pictures on disk."""

from pictures import *  # noqa: F403 - fixtures
