"""A trained model and images: how good it is, and what it says of each.

``settings`` holds what the command line asks for, ``accumulator`` counts on the device, ``metrics`` makes figures of the
counts, ``evaluate`` and ``predict`` pass images through a model. Imports ``errors``, ``settings``, ``system``, ``data``,
``models`` and ``training``. Imported by ``config``, ``interop``, ``reporting``, ``engine`` and ``commands``.
"""
