"""Small images on disk, and a web server of them."""

from image_files import *  # noqa: F403 - fixtures
from web_server import web as web
