"""ImageNet-LT: its files, what is known of it, and how to get it."""

from fastlift.data.datasets.published import OLTR, Published

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
  (or all of the latter in DATA_ROOT/val itself)
Lists come by themselves; ImageNet_LT_train.txt, of 4.7 MB, is downloaded once. Your own files win: ImageNet_LT_train.txt,
  ImageNet_LT_test.txt and ImageNet_LT_classnames.txt (plain or .gz; lines of 'path label' and 'folder name') in DATA_ROOT
  or DATA_ROOT/splits, or by --train-list, --test-list, --class-names. They were published with OLTR,
  {OLTR}""",
)
