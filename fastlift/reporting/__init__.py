"""What people look at: the terminal (``console``, ``table``) and the self-contained page of a run (``html``, with a file a section).

``predictions`` and ``parquet`` write records of predictions, for programs. Imports ``errors``, ``settings``, ``system``, ``data``,
``models``, ``evaluation``, ``advice``, ``config`` and ``runs``. Imported by ``engine``, ``soups`` and ``commands``.
"""
