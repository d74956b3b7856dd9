"""``--dataset list``: images by list files of the user's own. Published sets and ``shapes_lt`` are lists too."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from fastlift.data.datasets import inaturalist
from fastlift.data.datasets.dataset import DataSet, Request, Source
from fastlift.data.datasets.laid_out import Move, missing_folders
from fastlift.data.datasets.splits import check_classes, finish, index_split, note_shared
from fastlift.data.datasets.tables import load_tables
from fastlift.data.datasets.wordnet import names_of_folders
from fastlift.data.index.index import ImageIndex
from fastlift.data.index.lines import content_digest, line_blocks, read_lines, read_text
from fastlift.data.index.lists import Listing, class_folders, parse_class_names, parse_list
from fastlift.data.index.problems import Problems
from fastlift.data.index.table_files import kind_of
from fastlift.errors import UserError


class ListFiles(Source):
    """Lists that the user gives, with or without a file of class names."""

    name = "list"
    takes_lists = takes_class_names = True
    last_step = "lists and images, index"

    def how_to_get(self) -> str:
        return "\nIt is the folder that the paths in --train-list and --test-list start from."

    def load(self, request: Request) -> DataSet:
        if request.train_list is None:
            raise UserError(
                "--dataset list needs --train-list (lines of 'relative/path label', labels from 0; or a table: .csv, .tsv, "
                ".jsonl, .parquet), mostly --data-root (the folder that its paths start from; by default its own) and, unless "
                "every class has a folder or a name of its own, --class-names (lines of 'folder name' or 'name', in the order "
                "of the labels). It may have --test-list and --val-list"
            )
        lists = {"train": request.train_list, "val": request.val_list, "test": request.test_list}
        if any(file is not None and kind_of(file) for file in lists.values()):
            return load_tables(request, lists)
        train = request.train_list
        if request.data_root is None:
            request = replace(request, data_root=train.absolute().parent)
        class_names = read_class_names(train, request.class_names)
        return load_lists(request, lists, class_names, Problems(request.name))


def load_lists(
    request: Request,
    lists: Mapping[str, Path | None],
    class_names: tuple[str, ...],
    problems: Problems,
    check: Callable[[str, Listing, str, Problems], None] | None = None,
    elsewhere: Callable[[Path], Move | None] = lambda file: None,
) -> DataSet:
    """The splits of list files below the data root, of those that have one; raises UnusableData where there are problems.

    ``check`` is called with (split, listing, name of its file, problems) for a list without problems, and adds to these.
    ``elsewhere`` tells where the images of a list file lie, if not where it says.
    """
    indices: dict[str, ImageIndex | None] = {}
    for split, file in lists.items():
        if file is None:
            continue

        move = elsewhere(file)

        def make_listing(split: str = split, file: Path = file, move: Move | None = move) -> Listing | None:
            before = problems.total
            listing = read_list(file, len(class_names), problems)
            if problems.total == before:
                if check is not None:
                    check(split, listing, file.name, problems)
                if split == "train":
                    check_classes(listing.labels, class_names, file.name, problems)
            if move is not None:
                listing = Listing(move.paths(listing.paths), listing.labels)
            return None if _lacks_folders(request, listing, file.name, problems) else listing

        key = b"list\0" + request.name.encode() + b"\0%d\0" % len(class_names) + split.encode()
        key += b"\0" + content_digest(file) + (b"" if move is None else b"\0" + move.name.encode())
        indices[split] = index_split(request, split, key, make_listing, class_names, problems)
    note_shared({split: index.paths for split, index in indices.items() if index is not None}, problems)
    return finish(request, indices, problems)


def _lacks_folders(request: Request, listing: Listing, source: str, problems: Problems) -> bool:
    """Whether folders of a list are not in a local data root, which is added to the problems."""
    if not isinstance(request.data_root, Path) or request.bad_images == "skip":  # there, single files are replaced
        return False
    if told := missing_folders(request.data_root, listing.paths, source):
        problems.add(told)
    return bool(told)


def read_list(file: Path, num_classes: int | None, problems: Problems) -> Listing:
    """What a list file, or one of iNaturalist's annotation files, says; bad lines are told in ``problems`` and left out.

    Labels must be below ``num_classes``; None where it is not known.
    """
    if is_json(file):
        return inaturalist.parse_annotations(read_text(file), file.name, num_classes, problems)
    return parse_list(line_blocks(file), file.name, num_classes, problems)


def is_json(file: Path) -> bool:
    """Whether a file is one of iNaturalist's own; lists and class names otherwise."""
    return file.name.endswith((".json", ".json.gz"))


def read_class_names(train_list: Path, file: Path | None) -> tuple[str, ...]:
    """Names from a file, else the folders that the classes' files lie in; raises UserError where these do not tell them."""
    problems = Problems(str(train_list))  # found again, and told, when the list itself is loaded
    if file is None:
        return _names_of_folders(read_list(train_list, None, problems), train_list, problems)
    if is_json(file):
        return tuple(str(entry["name"]) for entry in inaturalist.parse_categories(read_text(file), str(file)))
    lines = read_lines(file)

    def folders_of_classes() -> list[str | None]:
        listing = read_list(train_list, None, problems)
        in_range = len(listing.labels) > 0 and int(listing.labels.max()) < len(lines)
        return class_folders(listing, len(lines)) if in_range else []

    return parse_class_names(lines, str(file), folders_of_classes)


def _names_of_folders(listing: Listing, train_list: Path, problems: Problems) -> tuple[str, ...]:
    count = int(listing.labels.max(initial=-1)) + 1
    folders_of = class_folders(listing, count) if count <= len(listing.labels) else []
    found = [folder for folder in folders_of if folder is not None]
    if found and len(found) == len(folders_of):
        return names_of_folders(found)
    problems.raise_if_any()
    if empty := sorted(set(range(min(count, len(listing.labels) + 1))) - set(listing.labels.tolist())):
        raise UserError(f"{train_list}: class {empty[0]} has no image; labels count from 0, without gaps")
    raise UserError(
        f"{train_list} does not tell the names of the classes (no folder for each): give --class-names, "
        "a file with lines of 'folder name' or 'name' in the order of the labels"
    )


LIST = ListFiles()
