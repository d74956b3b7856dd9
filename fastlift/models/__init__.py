"""From a name and settings to a model: backbones, tuners, classifiers, and how they compute.

``create.create_model`` makes a ``lift.LiftModel`` of a backbone (``backbones/``, ``conversion``, ``vit`` of ``layers`` and
``frozen_mlp``, ``resnet``), what
learns in it (``tuners/``, ``text/``) and a classifier at its start (``classifiers``, ``classifier_init``). ``precision``,
``fp8``, ``fused`` and ``compile`` say how it computes, ``preprocessing`` what it takes, ``prediction/`` what it says of images, ``footprint`` and ``out_of_memory`` what it takes. Imports ``errors``,
``settings``, ``system`` and ``data``. Imported by ``training``, ``evaluation``, ``config``, ``runs``, ``interop``, ``engine``,
``bench``, ``doctor`` and ``commands``.
"""
