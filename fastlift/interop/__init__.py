"""fastlift beside other programs: adapters inside others' models, losses for any loop, the authors' checkpoints, export.

``adapters/`` changes models of open_clip, timm and transformers in place, ``modules`` holds losses, ``lift_checkpoints`` reads
and writes the authors' files, ``export/`` writes models that serve without fastlift.

This room imports every room up to ``runs``; ``engine``, ``commands`` and the public names of ``fastlift`` import it.
"""
