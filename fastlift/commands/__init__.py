"""The commands of the command line, a module each: ``run(arguments) -> exit code``.

A command embeds the settings of what it calls, so that a flag is declared once. Each command loads what it needs when it is
called. Imports ``errors``, ``settings``, ``system``, ``data``, ``models``, ``evaluation``, ``config``, ``runs``, ``interop``,
``reporting``, ``engine``, ``bench``, ``doctor`` and ``recipes``. Imported by ``cli``.
"""
