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
From https://github.com/visipedia/inat_comp/tree/master/2018: train_val2018.tar.gz (images), train2018.json.tar.gz,
  val2018.json.tar.gz and categories.json.tar.gz, unpacked as
  DATA_ROOT/train_val2018/Aves/2761/IMAGE.jpg, DATA_ROOT/train2018.json, val2018.json and categories.json
Instead of the JSON files: iNaturalist18_train.txt and iNaturalist18_val.txt (lines of 'path label'). Any of them may lie
  in DATA_ROOT/splits, or be given by --train-list, --test-list, --class-names.""",
)
