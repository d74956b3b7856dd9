"""fastlift beside other programs: adapters inside others' models, losses for any loop, the authors' checkpoints, export.

``adapters/`` changes models of open_clip, timm and transformers in place, ``modules`` holds losses, ``lift_checkpoints`` reads
and writes the authors' files, ``export/`` writes models that serve without fastlift. Imports ``errors``, ``settings``,
``system``, ``data``, ``models``, ``training`` and ``evaluation``. Imported by ``engine`` and ``commands``.
"""
