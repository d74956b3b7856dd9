"""iNaturalist 2018: its files, what is known of it, and how to get it."""

from fastlift.data.datasets.published import Published

INATURALIST2018 = Published(
    name="inaturalist2018",
    title="iNaturalist 2018",
    train_files=("train2018.json", "iNaturalist18_train.txt"),
    test_files=("val2018.json", "iNaturalist18_val.txt"),
    names_files=("categories.json", "iNaturalist18_categories.json"),
    classes=8142,
    train=437_513,
    test=(24_426,),
    largest=1000,
    smallest=2,
    image_folders=("train_val2018",),
    where="""\
Images: train_val2018.tar.gz (120 GB) from https://github.com/visipedia/inat_comp/tree/master/2018, unpacked as
  DATA_ROOT/train_val2018/Aves/2761/IMAGE.jpg
Lists come by themselves, downloaded once. Your own files win: train2018.json, val2018.json and categories.json of the same
  page, or iNaturalist18_train.txt and iNaturalist18_val.txt (lines of 'path label'), in DATA_ROOT or DATA_ROOT/splits, or
  by --train-list, --test-list, --class-names.""",
)
