"""A trained run behind HTTP: a small API with its description, and one page where an image is dropped.

``batcher`` makes batches of the images of concurrent requests, ``app`` is the API (FastAPI), ``server`` binds it to an address
and runs it (uvicorn). Imports ``errors``, ``settings``, ``data``, ``models`` and ``system``. Imported by ``commands``.
"""
