"""Small images on disk."""

from image_files import *  # noqa: F403 - fixtures
