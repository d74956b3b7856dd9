"""The DALI backend: what it is fed, its graph, the thread that runs it, and what becomes of its output."""
