"""What people look at: the terminal (``console``, ``table``) and the self-contained page of a run (``html``, with a file a section).

Imports ``errors``, ``settings``, ``system``, ``data``, ``evaluation``, ``config`` and ``runs``. Imported by ``engine`` and ``commands``.
"""
