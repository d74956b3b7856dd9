"""The commands of the command line, a module each: ``run(arguments) -> exit code``.

A command embeds the settings of what it calls, so that a flag is declared once. May import every room; ``cli`` alone imports
it, and each command loads what it needs when it is called.
"""
