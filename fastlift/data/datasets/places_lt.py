"""Places-LT: its files, what is known of it, and how to get it."""

from fastlift.data.datasets.laid_out import ONE_FOLDER_HIGHER, PLACES365
from fastlift.data.datasets.published import OLTR, Published

PLACES_LT = Published(
    name="places_lt",
    title="Places-LT",
    train_files=("Places_LT_train.txt",),
    test_files=("Places_LT_test.txt",),
    names_files=("Places_LT_classnames.txt",),
    classes=365,
    train=62_500,
    test=(36_500, 7_300),
    largest=4980,
    smallest=5,
    image_folders=("train", "val"),
    where=f"""\
Images: Places365-Standard, small or full, from http://places2.csail.mit.edu/download.html, unpacked as
  DATA_ROOT/train/airfield/00000001.jpg and DATA_ROOT/val/airfield/Places365_val_00000435.jpg
  or as torchvision's Places365 unpacks it (both of its splits, train-standard and val):
  DATA_ROOT/data_256_standard/a/airfield/00000001.jpg (or data_large_standard, data_256, data_large) and
  DATA_ROOT/val_256/Places365_val_00000435.jpg (or val_large)
Lists come with fastlift. Your own files win: Places_LT_train.txt, Places_LT_test.txt and Places_LT_classnames.txt (plain
  or .gz; lines of 'path label' and 'folder name') in DATA_ROOT or DATA_ROOT/splits, or by --train-list, --test-list,
  --class-names. They were published with OLTR, {OLTR}""",
    moves=(ONE_FOLDER_HIGHER, *PLACES365),
)
