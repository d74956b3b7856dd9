"""ImageNet-LT: its files, what is known of it, and how to get it."""

from fastlift.data.datasets.published import OLTR, Published


def clip_names() -> tuple[str, ...]:
    """CLIP's names of ImageNet's classes in the order of their WordNet ids, which are those of LIFT's class-name file."""
    from open_clip import IMAGENET_CLASSNAMES

    return tuple(IMAGENET_CLASSNAMES)


IMAGENET_LT = Published(
    name="imagenet_lt",
    title="ImageNet-LT",
    train_files=("ImageNet_LT_train.txt",),
    test_files=("ImageNet_LT_test.txt",),
    names_files=("ImageNet_LT_classnames.txt",),
    classes=1000,
    train=115_846,
    test=(50_000, 20_000),
    largest=1280,
    smallest=5,
    image_folders=("train", "val"),
    where=f"""\
Images: ILSVRC 2012 from https://www.image-net.org/download (log in; training and validation images), unpacked as
  DATA_ROOT/train/n01440764/n01440764_10026.JPEG and DATA_ROOT/val/n01440764/ILSVRC2012_val_00000293.JPEG
Lists: ImageNet_LT_train.txt, ImageNet_LT_test.txt and ImageNet_LT_classnames.txt (plain or .gz; lines of
  'path label' and 'folder name') in DATA_ROOT or DATA_ROOT/splits, or by --train-list, --test-list, --class-names.
  The lists of images are published with OLTR, {OLTR}.
  Without class names, CLIP's own for ImageNet are taken, which are the same.""",
    known_names=clip_names,
)
