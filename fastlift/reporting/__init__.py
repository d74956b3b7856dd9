"""What people look at: the terminal (``console``, ``table``) and the self-contained page of a run (``html``, ``plots``).

May import ``runs`` and what is before it; ``engine``, ``bench``, ``doctor`` and ``commands`` may import it.
"""
