"""Runs that are made of others: soups, whose trained values are averages of what other runs, or epochs, have trained; several seeds.

Imports ``errors``, ``settings``, ``system``, ``data``, ``models``, ``training``, ``evaluation``, ``callbacks``, ``config``,
``runs``, ``reporting`` and ``engine``. Imported by ``commands``.
"""
