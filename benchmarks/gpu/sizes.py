"""The sizes of a run: those of a ViT-B/16 on a GPU, and toy ones, with which the same code is rehearsed on a CPU."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.counting import Shape


@dataclass(frozen=True)
class Sizes:
    """What is measured.

    Attributes:
        model: a name for ``create_model``, built with random weights.
        trained_model: that of the whole run, which another process builds.
        other_models: backbones of other shapes, of which a step is timed.
        image_size: pixels; None for the model's own.
        vit: the model's shape.
        batches: of the training step, the largest first.
        ranks: of the adapter, LIFT's usual one first.
        classes: of the training step.
        attentions: shapes of attention: (images, tokens, width, heads).
        adapters, activations, classifiers: shapes of the ops: (tokens, width, rank), (tokens, width), (batch, width, classes).
        square: side of the square product, the card's best case.
        copied: bytes of the copy whose rate is the card's.
        files: drawn JPEGs.
        images: of an epoch over them; files repeat.
        rounds: alternated rounds, at most.
    """

    model: str
    trained_model: str
    other_models: tuple[str, ...]
    image_size: int | None
    vit: Shape
    batches: tuple[int, int, int]
    ranks: tuple[int, int]
    classes: int
    adapters: tuple[tuple[int, int, int], ...]
    activations: tuple[tuple[int, int], ...]
    classifiers: tuple[tuple[int, int, int], ...]
    attentions: tuple[tuple[int, int, int, int], ...]
    square: int
    copied: int
    files: int
    images: int
    rounds: int


FULL = Sizes(
    model="timm:vit_base_patch16_clip_quickgelu_224",
    trained_model="timm:vit_base_patch16_clip_quickgelu_224",
    other_models=(
        "timm:vit_large_patch14_clip_quickgelu_224",
        "timm:vit_base_patch16_dinov3",
        "timm:vit_base_patch16_siglip_224",
        "timm:vit_large_patch14_clip_quickgelu_336",
        "timm:vit_base_patch14_reg4_dinov2",
    ),
    image_size=None,
    vit=Shape(),
    batches=(512, 128, 64),
    ranks=(32, 256),
    classes=1000,
    adapters=((100_864, 768, 32), (100_864, 768, 256), (100_864, 768, 128), (25_216, 768, 32), (25_216, 768, 256)),
    activations=((100_864, 3072), (25_216, 3072)),
    classifiers=((128, 768, 1000), (512, 768, 8142), (256, 768, 100_000)),
    attentions=((512, 197, 768, 12),),
    square=8192,
    copied=2**30,
    files=512,
    images=8192,
    rounds=20,
)
TOY = Sizes(
    model="timm:fastlift_toy_vit",
    trained_model="timm:test_vit",
    other_models=("timm:test_vit", "timm:test_vit3"),
    image_size=32,
    vit=Shape(tokens=5, width=64, mlp=192, heads=2, depth=2, patch=16, rank=4, classes=10),
    batches=(8, 4, 2),
    ranks=(4, 8),
    classes=10,
    adapters=((40, 64, 4),),
    activations=((40, 192),),
    classifiers=((8, 64, 10),),
    attentions=((8, 5, 64, 2),),
    square=64,
    copied=2**16,
    files=12,
    images=24,
    rounds=2,
)
