"""From a name and settings to a model: backbones, tuners, classifiers, and how they compute.

``create.create_model`` makes a ``lift.LiftModel`` of a backbone (``backbones/``, ``conversion``, ``vit`` of ``layers`` and
``frozen_mlp``, ``resnet``), what learns in it (``tuners/``, ``text/``) and a classifier at its start (``classifiers``,
``classifier_init``). ``preprocessing`` says what it takes, ``prediction/`` what it says of images, ``precision``, ``fp8``,
``fused`` and ``compile`` how it computes, ``footprint`` and ``out_of_memory`` what memory that needs. Imports ``errors``,
``settings``, ``system`` and ``data``. Imported by ``training``, ``evaluation``, ``advice``, ``config``, ``runs``, ``interop``,
``reporting``, ``engine``, ``soups``, ``serving``, ``bench``, ``doctor`` and ``commands``.
"""
