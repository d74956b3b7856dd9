"""Data sets by name: where their lists lie, what they must contain, and how to get them."""

import difflib
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from fastlift.data.datasets import cifar, folders, inaturalist
from fastlift.data.datasets.inaturalist import Rank
from fastlift.data.datasets.published import PUBLISHED, check_counts, find_file, how_to_get
from fastlift.data.index.index import ImageIndex, array_index, fingerprint
from fastlift.data.index.lines import content_digest, line_blocks, read_lines, read_text
from fastlift.data.index.lists import Listing, class_folders, parse_class_names, parse_list
from fastlift.data.index.problems import Problems
from fastlift.data.index.scan import Progress, cached_scan, finish_index, scan_files
from fastlift.errors import UserError
from fastlift.system.files import cache_folder, expand_user

DEFAULT = "shapes_lt"
PACK_MANIFEST = "fastlift-pack.json"
SPECIES = "species"
_CIFAR_NAME = re.compile(r"cifar(10|100)_ir(\d+)")
_CIFAR_RATIO_OF_GROUPS = 100  # CIFAR-100-LT with any ratio is graded by the groups of ratio 100


@dataclass(frozen=True)
class DataSet:
    """A training and a test split with the same classes."""

    name: str
    train: ImageIndex
    test: ImageIndex
    class_names: tuple[str, ...]
    group_counts: np.ndarray  # int64 [C]: the training counts that define many, medium and few
    ranks: dict[str, Rank] = field(default_factory=dict)  # coarser gradings by name (iNaturalist: kingdom to genus)


_FOLDER_LAYOUT = "  DATA_ROOT/train/CLASS/picture.jpg\n  DATA_ROOT/test/CLASS/picture.jpg   (or val)"


def names() -> list[str]:
    """The data sets that ``load_data_set`` knows (CIFAR at other ratios too: ``cifar100_ir20``)."""
    drawn = [f"cifar{classes}_ir{ratio}" for classes in (100, 10) for ratio in (100, 50, 10)]
    return [DEFAULT, *PUBLISHED, *drawn, "list", "folder"]


def check_name(name: str) -> None:
    """Raise a UserError with the near names for a name that is none of ours."""
    if name in names() or _CIFAR_NAME.fullmatch(name):
        return
    near = difflib.get_close_matches(name, names(), n=3, cutoff=0.4)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise UserError(f"unknown data set {name!r}.{hint} Known: {', '.join(names())}")


@dataclass(frozen=True)
class _Request:
    """What the user gave, with the defaults filled in."""

    name: str
    data_root: Path | None
    train_list: Path | None
    test_list: Path | None
    class_names: Path | None
    cache_dir: Path
    bad_images: str
    rescan: bool
    progress: Progress | None


class _Rejected(Exception):
    """A listing with problems, which are collected already: nothing to cache."""

    def __init__(self, listing: Listing) -> None:
        super().__init__()
        self.listing = listing


def load_data_set(
    name: str,
    *,
    data_root: str | Path | None = None,
    train_list: str | Path | None = None,
    test_list: str | Path | None = None,
    class_names: str | Path | None = None,
    taxon: str = SPECIES,
    cache_dir: str | Path | None = None,
    bad_images: str = "stop",
    rescan: bool = False,
    progress: Progress | None = None,
) -> DataSet:
    """Load and check both splits of a data set.

    Args:
        name: one of ``names()``.
        data_root: folder of the images, or a pack of the set (``fastlift data pack``). Not needed for ``shapes_lt``, and for CIFAR only where it is not to be
            downloaded into the cache.
        train_list, test_list, class_names: files, for ``list`` and in place of the found ones for published sets.
        taxon: what the classes of iNaturalist are: its species, or their groups at a rank of ``inaturalist.RANKS``.
        cache_dir: where indices, the drawn shapes and downloads go; default ``cache_folder()``.
        bad_images: "stop" to refuse unusable files, "skip" to put the next good file of the class in their place.
        rescan: look at all files again instead of trusting the cached sizes.
        progress: called with (what, done, total) during the header scan.

    Raises:
        UserError: an unknown name, missing files, or problems in lists and images: the first ten and the total.
    """
    check_name(name)
    if bad_images not in ("stop", "skip"):
        raise UserError(f"bad images: {bad_images!r} is neither 'stop' nor 'skip'")

    def path(value: str | Path | None) -> Path | None:
        return None if value is None else expand_user(Path(value))

    request = _Request(
        name,
        path(data_root),
        path(train_list),
        path(test_list),
        path(class_names),
        path(cache_dir) or cache_folder(),
        bad_images,
        rescan,
        progress,
    )
    _refuse_unused_lists(request)
    if request.data_root is not None and not request.data_root.is_dir():
        raise UserError(f"the data root {request.data_root} is not a folder.{_hint(name)}")
    data = at_taxon(_load(request), taxon)
    train, test = (replace(index, cache=request.cache_dir) for index in (data.train, data.test))
    return replace(data, train=train, test=test)


def _load(request: _Request) -> DataSet:
    if request.data_root is not None and (request.data_root / PACK_MANIFEST).is_file():
        from fastlift.data.shards.packed import load_pack

        data = load_pack(request.data_root, request.name)
        _refuse_other_lists(request, data)
        return data
    if match := _CIFAR_NAME.fullmatch(request.name):
        return _load_cifar(request, int(match[1]), int(match[2]))
    loaders = {DEFAULT: _load_shapes, "folder": _load_folder, "list": _load_list}
    return loaders.get(request.name, _load_published)(request)


def _refuse_other_lists(request: _Request, data: DataSet) -> None:
    """A pack brings its lists and names: those that are given beside it must be the same."""
    count = len(data.class_names)
    for flag, file, index in (
        ("--train-list", request.train_list, data.train),
        ("--test-list", request.test_list, data.test),
    ):
        if file is None:
            continue
        listing = _listing(file, count, Problems(str(file)))
        sizes = (index.widths, index.heights) if len(listing.labels) == len(index) else (index.widths[:0],) * 2
        if fingerprint(listing.paths, listing.labels, *sizes, index.class_names) != index.fingerprint:
            raise UserError(
                f"{flag} {file} is not the list that {request.data_root} was packed from: make another pack"
            )
    if request.class_names is not None and not _is_json(request.class_names):
        lines = [line.strip() for line in read_lines(request.class_names)]
        known = {*lines, *(line.split(None, 1)[-1] for line in lines)}
        if len(lines) != count or not known.issuperset(data.class_names):
            raise UserError(
                f"--class-names {request.class_names} has other names than {request.data_root} was packed with: make "
                "another pack"
            )


def rank_at(data: DataSet, taxon: str) -> Rank:
    """How a set's species are grouped at a higher rank.

    Raises:
        UserError: the set's files do not tell that rank.
    """
    if taxon not in data.ranks:
        told = ", ".join(data.ranks) or "none: they come with the categories.json of iNaturalist 2018"
        raise UserError(f"taxon {taxon}: {data.name} does not tell it (ranks above its classes: {told})")
    return data.ranks[taxon]


def at_taxon(data: DataSet, taxon: str) -> DataSet:
    """A set whose classes are the groups of its species at a higher rank; groups by count are those of that rank.

    Raises:
        UserError: the set's files do not tell that rank.
    """
    if taxon == SPECIES:
        return data
    rank = rank_at(data, taxon)
    if len(rank.names) < 2:
        raise UserError(f"taxon {taxon}: all species of {data.name} are of one, so there is nothing to tell apart")

    def relabelled(index: ImageIndex) -> ImageIndex:
        hashed = hashlib.sha256(f"{index.fingerprint} {taxon}".encode()).hexdigest()[: len(index.fingerprint)]
        return replace(index, labels=rank.of_class[index.labels], class_names=rank.names, fingerprint=hashed)

    train, test = relabelled(data.train), relabelled(data.test)
    return DataSet(data.name, train, test, rank.names, train.class_counts())


def _refuse_unused_lists(request: _Request) -> None:
    takes_lists = request.name == "list" or request.name in PUBLISHED
    given = [
        flag
        for flag, value in (("--train-list", request.train_list), ("--test-list", request.test_list))
        if value is not None
    ]
    if given and not takes_lists:
        raise UserError(f"{' and '.join(given)}: the data set {request.name} has no list files (use --dataset list)")
    if request.class_names is not None and not takes_lists and request.name != "folder":
        raise UserError(f"--class-names: the data set {request.name} brings its own names")


def _hint(name: str) -> str:
    layouts = {
        "folder": f"\nExpected layout:\n{_FOLDER_LAYOUT}",
        "list": "\nIt is the folder that the paths in --train-list and --test-list start from.",
    }
    if match := _CIFAR_NAME.fullmatch(name):
        return "\n" + cifar.how_to_get(int(match[1]))
    return layouts.get(name, how_to_get(name))


def _index(
    request: _Request,
    split: str,
    root: Path,
    key: bytes,
    make_listing: Callable[[], Listing],
    class_names: tuple[str, ...],
    problems: Problems,
) -> ImageIndex | None:
    """Scan one split; None where its listing has problems already, to which those of its files are added."""

    def checked() -> Listing:
        before = problems.total
        listing = make_listing()
        if problems.total > before:
            raise _Rejected(listing)
        return listing

    what = f"{request.name}/{split}"
    try:
        scan = cached_scan(
            root,
            key,
            checked,
            request.cache_dir,
            len(class_names),
            rescan=request.rescan,
            what=what,
            progress=request.progress,
        )
    except _Rejected as rejected:
        paths = rejected.listing.paths
        *_, reasons = scan_files(root, paths, np.arange(len(paths)), what, request.progress)
        if request.bad_images == "stop":
            problems.add_files(f"{root / paths[i]}: {reasons[i]}" for i in sorted(reasons))
        return None
    return finish_index(what, root, scan, class_names, request.bad_images, problems)


def _check_classes(listing: Listing, class_names: tuple[str, ...], source: str, problems: Problems) -> None:
    counts = np.bincount(listing.labels, minlength=len(class_names))
    for label in np.flatnonzero(counts == 0):
        problems.add(f"{source}: class {label} ({class_names[label]}) has no image")


def _finish(
    name: str,
    train: ImageIndex | None,
    test: ImageIndex | None,
    problems: Problems,
    group_counts: np.ndarray | None = None,
) -> DataSet:
    problems.raise_if_any()
    assert train is not None  # a missing one has left a problem
    assert test is not None
    counts = train.class_counts() if group_counts is None else group_counts
    return DataSet(name, train, test, train.class_names, counts)


def _load_from_lists(
    request: _Request, root: Path, train_list: Path, test_list: Path, class_names: tuple[str, ...], problems: Problems
) -> DataSet:
    """Both splits of list files; counts are checked where the set is a published one."""
    known = PUBLISHED.get(request.name)
    indices: list[ImageIndex | None] = []
    for split, file in (("train", train_list), ("test", test_list)):

        def make_listing(split: str = split, file: Path = file) -> Listing:
            before = problems.total
            listing = _listing(file, len(class_names), problems)
            if problems.total == before:
                if known:
                    check_counts(known, split, listing, file.name, problems)
                if split == "train":
                    _check_classes(listing, class_names, file.name, problems)
            return listing

        key = b"list\0" + request.name.encode() + b"\0%d\0" % len(class_names) + split.encode()
        key += b"\0" + content_digest(file)
        indices.append(_index(request, split, root, key, make_listing, class_names, problems))
    return _finish(request.name, indices[0], indices[1], problems)


def _load_shapes(request: _Request) -> DataSet:
    from fastlift.data.datasets import shapes

    try:
        root = request.data_root or shapes.prepare(request.cache_dir)
    except OSError as error:
        raise UserError(
            f"the pictures of {DEFAULT} cannot be written to {request.cache_dir}: {error}. "
            "Name another folder in the environment variable FASTLIFT_CACHE",
            exit_code=1,
        ) from error
    lists = [root / name for name in ("train.txt", "test.txt", "class_names.txt")]
    if missing := [file.name for file in lists if not file.is_file()]:
        raise UserError(
            f"{root} does not hold {DEFAULT}: {missing[0]} is not there. To train on other pictures name their data set too "
            f"(--dataset folder, --dataset list ...); {DEFAULT} itself needs no --data-root"
        )
    class_names = _class_names(lists[0], lists[2])
    return _load_from_lists(request, root, lists[0], lists[1], class_names, Problems(request.name))


def _load_list(request: _Request) -> DataSet:
    if request.train_list is None or request.test_list is None or request.data_root is None:
        raise UserError(
            "--dataset list needs --data-root (folder of the images), --train-list and --test-list "
            "(lines of 'relative/path label', labels from 0) and, unless every class has a folder of its own, "
            "--class-names (lines of 'folder name' or 'name', in the order of the labels)"
        )
    class_names = _class_names(request.train_list, request.class_names)
    problems = Problems(request.name)
    return _load_from_lists(request, request.data_root, request.train_list, request.test_list, class_names, problems)


def _listing(file: Path, num_classes: int | None, problems: Problems) -> Listing:
    """What a list file or an annotation file says."""
    if _is_json(file):
        return inaturalist.parse_annotations(read_text(file), file.name, num_classes, problems)
    return parse_list(line_blocks(file), file.name, num_classes, problems)


def _class_names(train_list: Path, file: Path | None) -> tuple[str, ...]:
    """Names from a file, else the folders that the classes' files lie in."""
    problems = Problems(str(train_list))  # found again, and told, when the list itself is loaded
    if file is None:
        listing = _listing(train_list, None, problems)
        count = int(listing.labels.max(initial=-1)) + 1
        folders_of = class_folders(listing, count) if count <= len(listing.labels) else []
        found = [folder for folder in folders_of if folder is not None]
        if not found or len(found) < len(folders_of):
            problems.raise_if_any()
            if empty := sorted(set(range(min(count, len(listing.labels) + 1))) - set(listing.labels.tolist())):
                raise UserError(f"{train_list}: class {empty[0]} has no image; labels count from 0, without gaps")
            raise UserError(
                f"{train_list} does not tell the names of the classes (no folder for each): give --class-names, "
                "a file with lines of 'folder name' or 'name' in the order of the labels"
            )
        return tuple(found)
    if _is_json(file):
        return inaturalist.species_names(inaturalist.parse_categories(read_text(file), str(file)))
    lines = read_lines(file)

    def folders_of_classes() -> list[str | None]:
        listing = _listing(train_list, None, problems)
        in_range = len(listing.labels) > 0 and int(listing.labels.max()) < len(lines)
        return class_folders(listing, len(lines)) if in_range else []

    return parse_class_names(lines, str(file), folders_of_classes)


def _is_json(file: Path) -> bool:
    """iNaturalist's own files; lists and class names otherwise."""
    return file.name.endswith((".json", ".json.gz"))


def _find_names(name: str, root: Path, train_list: Path) -> Path | None:
    """The class-name file of a published set; None where ImageNet's names must come from open_clip, which has them."""
    try:
        return find_file(root, PUBLISHED[name].names_files, name, beside=train_list.parent)
    except UserError:
        if name == "imagenet_lt":
            return None
        raise


def _imagenet_names() -> tuple[str, ...]:
    """CLIP's names of ImageNet's classes in the order of their WordNet ids, which are those of LIFT's class-name file."""
    from open_clip import IMAGENET_CLASSNAMES

    return tuple(IMAGENET_CLASSNAMES)


def _load_published(request: _Request) -> DataSet:
    known = PUBLISHED[request.name]
    root = request.data_root
    if root is None:
        raise UserError(f"{known.title} needs --data-root, the folder of its images.{how_to_get(request.name)}")
    train_list = request.train_list or find_file(root, known.train_files, request.name)
    test_list = request.test_list or find_file(root, known.test_files, request.name)
    names_file = request.class_names or _find_names(request.name, root, train_list)
    class_names = _imagenet_names() if names_file is None else _class_names(train_list, names_file)
    problems = Problems(known.title, hint=how_to_get(request.name).lstrip("\n"))
    if len(class_names) != known.classes:
        problems.add(f"{names_file}: {len(class_names)} class names, {known.title} has {known.classes}")
        problems.raise_if_any()
    data = _load_from_lists(request, root, train_list, test_list, class_names, problems)
    if names_file is not None and _is_json(names_file):
        categories = inaturalist.parse_categories(read_text(names_file), str(names_file))
        data = replace(data, ranks=inaturalist.ranks_of(categories))
    return data


def _load_folder(request: _Request) -> DataSet:
    root = request.data_root
    if root is None:
        raise UserError(f"--dataset folder needs --data-root.{_hint('folder')}")
    problems = Problems(str(root))
    train_split = folders.find_split(root, ("train",), _FOLDER_LAYOUT)
    test_split = folders.find_split(root, ("test", "val"), _FOLDER_LAYOUT)
    classes = folders.class_folder_names(root / train_split)
    class_names = tuple(classes)
    if request.class_names is not None:
        class_names = parse_class_names(read_lines(request.class_names), str(request.class_names), lambda: classes)
        if len(class_names) != len(classes):
            raise UserError(f"{request.class_names} has {len(class_names)} names, {root} has {len(classes)} classes")
    train = folders.list_split(root, train_split, classes, problems)
    _check_classes(train, class_names, str(root / train_split), problems)
    test = folders.list_split(root, test_split, classes, problems)
    if len(test.labels) == 0:
        problems.add(f"{root / test_split}: no images")
    return _finish(
        request.name,
        _index_listing(request, "train", root, train, class_names, problems),
        _index_listing(request, "test", root, test, class_names, problems),
        problems,
    )


def _index_listing(
    request: _Request,
    split: str,
    root: Path,
    listing: Listing,
    class_names: tuple[str, ...],
    problems: Problems,
) -> ImageIndex | None:
    nothing = listing.labels[:0]
    key = b"listing\0" + fingerprint(listing.paths, listing.labels, nothing, nothing, ()).encode()
    return _index(request, split, root, key, lambda: listing, class_names, problems)


def _load_cifar(request: _Request, num_classes: int, ratio: int) -> DataSet:
    if ratio < 1:
        raise UserError(f"{request.name}: the imbalance ratio must be at least 1")
    groups = None
    if num_classes == 100:
        groups = cifar.long_tail_counts(100, 500, _CIFAR_RATIO_OF_GROUPS)
    root = request.data_root
    if root is not None and cifar.has_folders(root, num_classes):
        problems = Problems(request.name)
        listed_train, listed_test, listed_names = cifar.list_folders(root, num_classes, ratio, problems)
        problems.raise_if_any()
        indices = [
            _index_listing(request, split, root, listing, tuple(listed_names), problems)
            for split, listing in (("train", listed_train), ("test", listed_test))
        ]
        return _finish(request.name, indices[0], indices[1], problems, groups)
    train, test, class_names = cifar.load_arrays(
        num_classes, root or request.cache_dir / "cifar", download=root is None
    )
    kept = cifar.draw_long_tail(train.labels, ratio)
    return _finish(
        request.name,
        array_index(f"{request.name}/train", train.images[kept], train.labels[kept], class_names),
        array_index(f"{request.name}/test", test.images, test.labels, class_names),
        Problems(request.name),
        groups,
    )
