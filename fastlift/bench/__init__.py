"""Measuring: what ``fastlift bench`` runs, and what the programs of ``benchmarks/`` measure with.

Contenders alternate within each round (``rounds``), and results name the machine. May import every room up to ``engine``;
``commands`` and the programs of ``benchmarks/`` may import it.
"""
