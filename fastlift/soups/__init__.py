"""Soups: runs whose trained values are averages of what other runs, or other epochs, have trained.

Imports ``errors``, ``settings``, ``system``, ``data``, ``models``, ``training``, ``evaluation``, ``callbacks``, ``config``,
``runs``, ``reporting`` and ``engine``. Imported by ``commands``.
"""
