"""What people look at: the terminal (``console``, ``table``) and the self-contained page of a run (``html``, ``plots``).

Imports ``errors``, ``system``, ``data``, ``evaluation`` and ``runs``. Imported by ``engine`` and ``commands``.
"""
