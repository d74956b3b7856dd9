"""Measuring: what ``fastlift bench`` runs, and what the programs of ``benchmarks/`` measure with.

Contenders alternate within each round (``rounds``), and results name the machine. Imports ``errors``, ``system``, ``data``,
``models``, ``training`` and ``engine``. Imported by ``commands``.
"""
