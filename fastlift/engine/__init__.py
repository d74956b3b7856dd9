"""A run from its settings to its results: opening the folder, data, model, training loop, evaluation, report.

A run needs the whole ``Config``, so this room stands behind it; most of its functions take a section or a part.
Imports ``errors``, ``settings``, ``system``, ``data``, ``models``, ``training``, ``evaluation``, ``advice``, ``callbacks``,
``config``, ``runs``, ``interop`` and ``reporting``. Imported by ``soups``, ``bench``, ``commands`` and ``cli``.
"""
