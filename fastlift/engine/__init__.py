"""A run from its settings to its results: opening the folder, data, model, training loop, evaluation, report.

Everything that needs the whole ``Config`` is here; the parts below take their own settings. May import every room up to
``reporting``; ``bench``, ``doctor``, ``commands`` and ``cli`` may import it.
"""
