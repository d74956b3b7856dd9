"""List files, class names, folders and the published sets: what is accepted, and one message for all that is wrong."""

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastlift.data.datasets.catalogue import check_name, load_data_set, names
from fastlift.data.datasets.cifar import draw_long_tail, long_tail_counts
from fastlift.data.index import lists
from fastlift.data.index.index import PathTable
from fastlift.data.index.lines import line_blocks, lines_of, read_lines
from fastlift.data.index.lists import Listing, _parse_line, class_folders, leaves_root, parse_class_names, parse_list
from fastlift.data.index.problems import Problems
from fastlift.errors import UserError


def parse(text: str, num_classes: int | None, problems: Problems, source: str = "list") -> Listing:
    return parse_list([text.encode("utf-8", "surrogateescape")], source, num_classes, problems)


def test_lines_with_spaces_and_blank_lines() -> None:
    problems = Problems("x")
    listing = parse("a b/c d.jpg 1\n\n  e.jpg   0 \n", 2, problems)
    assert list(listing.paths) == ["a b/c d.jpg", "e.jpg"]
    assert listing.labels.tolist() == [1, 0]
    assert problems.total == 0


def test_every_kind_of_bad_line_is_named_and_only_ten_are_shown() -> None:
    problems = Problems("train")
    text = "a.jpg\nb.jpg x\nc.jpg 5\nd.jpg -1\n../e.jpg 0\n/f.jpg 0\ng/../../h.jpg 0\n" + "i.jpg 9\n" * 20
    parse(text, 5, problems, "train.txt")
    assert problems.total == 27
    message = problems.message()
    assert "27 problems, the first 10:" in message
    assert len(message.splitlines()) == 11
    for part in ("line 1: no label", "line 2: no label", "line 3: label 5 is out of range (0..4)", "line 4: label -1"):
        assert part in message
    assert message.count("leaves the data root") == 3


def test_bad_lines_without_end_are_not_all_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gzipped list of a few KiB could hold millions of them: their messages would fill the memory."""
    monkeypatch.setattr(lists, "MOST_BAD", 50)
    read, problems = [], Problems("train")

    def blocks() -> Iterator[bytes]:
        for number in range(3):
            read.append(number)
            yield b"x\n" * 40 + b"a.jpg 1\n"

    parse_list(blocks(), "list", 5, problems)
    assert problems.total == 51
    assert problems.entries[-1] == "list: more than 50 lines are bad; the others were not read"
    assert read == [0, 1]


@pytest.mark.parametrize(
    ("path", "leaves"),
    [
        ("a/b.jpg", False),
        ("a/../b.jpg", False),
        ("..b/c.jpg", False),
        ("../b", True),
        ("/b", True),
        ("a/../../b", True),
    ],
)
def test_paths_that_leave_the_root(path: str, leaves: bool) -> None:
    assert leaves_root(path) is leaves


@pytest.mark.parametrize(
    ("text", "folders", "expected"),
    [
        ("n01440764 tench\nn01443537 gold fish\n", [], ("tench", "gold fish")),
        ("striped red star\nblue ring\n", [], ("striped red star", "blue ring")),
        ("airfield airfield\nattic my attic\n", ["airfield", "attic"], ("airfield", "my attic")),
        ("airfield airfield\nattic my attic\n", ["airfield", None], ("airfield", "my attic")),
        ("sand sand\nroad a road\nsea sea\n", ["road", "sand", None], ("a road", "sand", "sea")),
        ("1 one\n0 zero\n", ["0", "1"], ("zero", "one")),
        ("red star\nblue ring\n", ["a", "b"], ("red star", "blue ring")),
        ("cat\ndog\n", ["cat", "dog"], ("cat", "dog")),
    ],
)
def test_class_names_with_and_without_folders(text: str, folders: list[str | None], expected: tuple[str, ...]) -> None:
    assert parse_class_names(lines_of(text.rstrip()), "x", lambda: folders) == expected


@pytest.mark.parametrize("text", ["", "a\n\nb\n"])
def test_class_names_with_holes_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="empty"):
        parse_class_names(lines_of(text.rstrip()), "x")


def test_a_list_set_is_loaded_and_cached(pictures: Any) -> None:
    data = pictures.fill().load()
    assert data.class_names == ("thing 0", "thing 1", "thing 2")
    assert data.train.class_counts().tolist() == [5, 5, 5]
    assert (data.train.widths[1], data.train.heights[1]) == (87, 60)
    again = pictures.load()
    assert again.train.fingerprint == data.train.fingerprint
    assert list(again.train.paths) == list(data.train.paths)
    pictures.lines.pop()
    assert pictures.load().train.fingerprint != data.train.fingerprint


def test_all_problems_come_in_one_message(pictures: Any, make_bad_file: Callable) -> None:
    pictures.fill()
    pictures.add("c0/gone.jpg", 0, None)
    pictures.add("c1/empty.jpg", 1, b"")
    pictures.add("c2/page.jpg", 2, make_bad_file("html"))
    with pytest.raises(UserError) as caught:
        pictures.load()
    message = str(caught.value)
    assert "6 problems" in message  # train and test list are the same
    assert "gone.jpg: missing" in message
    assert "empty.jpg: is empty" in message
    assert "page.jpg: is an HTML page" in message


def test_a_class_without_an_image_is_refused(pictures: Any) -> None:
    pictures.fill(classes=2)
    with pytest.raises(UserError, match=r"class 2 \(thing 2\) has no image"):
        pictures.load(classes=3)


def test_a_mended_file_is_seen_without_a_rescan(pictures: Any, encode: Callable, make_picture: Callable) -> None:
    pictures.fill()
    pictures.add("c0/late.jpg", 0, None)
    with pytest.raises(UserError, match="missing"):
        pictures.load()
    (pictures.root / "c0" / "late.jpg").write_bytes(encode(make_picture(33, 44)))
    index = pictures.load().train
    assert (index.widths[-1], index.heights[-1]) == (33, 44)


def test_a_changed_file_is_seen_with_a_rescan(pictures: Any, encode: Callable, make_picture: Callable) -> None:
    first = pictures.fill().load().train
    (pictures.root / "c0" / "0.jpg").write_bytes(encode(make_picture(33, 44)))
    assert pictures.load().train.fingerprint == first.fingerprint
    changed = pictures.load(rescan=True).train
    assert (changed.widths[0], changed.heights[0]) == (33, 44)
    assert changed.fingerprint != first.fingerprint


def test_skip_puts_the_next_good_picture_of_the_class(pictures: Any) -> None:
    pictures.fill(classes=2, each=3)  # rows 0..2 and 3..5
    (pictures.root / "c0" / "2.jpg").write_bytes(b"")
    (pictures.root / "c1" / "0.jpg").unlink()
    index = pictures.load(classes=2, bad_images="skip").train
    assert [(bad.index, bad.replacement) for bad in index.bad] == [(2, 0), (3, 4)]
    assert [bad.reason for bad in index.bad] == ["is empty", "missing"]
    assert index.paths[2] == "c0/0.jpg"
    assert index.paths[3] == "c1/1.jpg"
    assert index.class_counts().tolist() == [3, 3]


def test_skip_refuses_a_class_without_any_good_picture(pictures: Any) -> None:
    pictures.fill(classes=2, each=1)
    (pictures.root / "c0" / "0.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="no good image to stand in"):
        pictures.load(classes=2, bad_images="skip")


def test_names_from_folders_where_no_file_gives_them(pictures: Any, tmp_path: Path) -> None:
    pictures.fill(classes=2)
    lines = tmp_path / "list.txt.gz"
    lines.write_bytes(gzip.compress("\n".join(pictures.lines).encode()))
    options = {"data_root": pictures.root, "train_list": lines, "test_list": lines, "cache_dir": tmp_path}
    assert load_data_set("list", **options).class_names == ("c0", "c1")
    pictures.add("c0/5.jpg", 1, b"")
    lines.write_bytes(gzip.compress("\n".join(pictures.lines).encode()))
    with pytest.raises(UserError, match="give --class-names"):
        load_data_set("list", **options)


def test_class_folders(pictures: Any, tmp_path: Path, encode: Callable, make_picture: Callable) -> None:
    root = pictures.root
    for split in ("train", "val"):
        for name in ("bee", "ant"):
            for k in range(2):
                pictures.add(f"{split}/{name}/deep/{k}.PNG", 0, encode(make_picture(20 + k, 30), "PNG"))
    (root / "train" / "ant" / "notes.txt").write_text("no picture")
    data = load_data_set("folder", data_root=root, cache_dir=tmp_path)
    assert data.class_names == ("ant", "bee")
    assert data.train.class_counts().tolist() == [2, 2]
    assert data.test.paths[0] == "val/ant/deep/0.PNG"
    (root / "val" / "wasp").mkdir()
    (root / "train" / "ant" / "moving.gif").write_bytes(b"GIF89a" + bytes(20))
    with pytest.raises(UserError) as caught:
        load_data_set("folder", data_root=root, cache_dir=tmp_path)
    assert "wasp: a class that the training split does not have" in str(caught.value)
    assert "moving.gif: is a GIF" in str(caught.value)


def test_folders_are_walked_once_and_hidden_ones_not_at_all(
    pictures: Any, encode: Callable, make_picture: Callable, tmp_path: Path
) -> None:
    data = encode(make_picture(40, 30))
    for path in ("train/cat/1.jpg", "train/cat/more/2.JPG", "train/dog/3.jfif", "test/cat/4.jpg", "test/dog/5.jpg"):
        pictures.add(path, 0, data)
    (pictures.root / "train" / "cat" / ".thumbnails").mkdir()
    (pictures.root / "train" / "cat" / ".thumbnails" / "1.jpg").write_bytes(data)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "6.jpg").write_bytes(data)
    (pictures.root / "train" / "cat" / "linked").symlink_to(elsewhere)
    (pictures.root / "train" / "cat" / "linked_again").symlink_to(elsewhere)
    (pictures.root / "train" / "cat" / "more" / "loop").symlink_to(pictures.root / "train")
    found = load_data_set("folder", data_root=pictures.root, cache_dir=pictures.cache).train
    assert list(found.paths) == [
        "train/cat/1.jpg", "train/cat/linked/6.jpg", "train/cat/more/2.JPG", "train/dog/3.jfif",
    ]  # fmt: skip


def test_an_empty_list_is_told_beside_other_problems(pictures: Any) -> None:
    pictures.fill().load()
    lists = pictures.root.parent
    (lists / "bad.txt").write_text("c0/0.jpg\n")
    (lists / "empty.txt").write_text("")
    with pytest.raises(UserError, match=r"(?s)no label.*empty\.txt: no lines"):
        load_data_set(
            "list",
            data_root=pictures.root,
            train_list=lists / "bad.txt",
            test_list=lists / "empty.txt",
            class_names=lists / "names.txt",
            cache_dir=pictures.cache,
        )


def test_labels_with_gaps_are_told(pictures: Any) -> None:
    lists = pictures.fill().root.parent
    (lists / "one.txt").write_text("c0/0.jpg 1\nc1/0.jpg 2\n")
    with pytest.raises(UserError, match="class 0 has no image; labels count from 0"):
        load_data_set(
            "list", data_root=pictures.root, train_list=lists / "one.txt", test_list=lists / "one.txt",
            cache_dir=pictures.cache,
        )  # fmt: skip


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied"])
def test_a_damaged_cache_is_no_cache(damage: str, pictures: Any) -> None:
    expected = pictures.fill().load().train
    for file in (pictures.cache / "index").iterdir():
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 0xFF
        file.write_bytes({"cut": data[:700], "flipped": data, "emptied": b""}[damage])
    with pytest.warns(UserWarning, match="is damaged"):
        assert pictures.load().train.fingerprint == expected.fingerprint


def test_folder_says_which_layout_it_wants(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"DATA_ROOT/train/CLASS/picture\.jpg"):
        load_data_set("folder", data_root=tmp_path)


def test_unknown_names_list_the_near_ones() -> None:
    with pytest.raises(UserError, match="imagenet_lt"):
        check_name("imagenet-lt")
    for name in names():
        check_name(name)
    check_name("cifar100_ir20")


@pytest.mark.parametrize("name", ["imagenet_lt", "places_lt"])
def test_published_sets_say_how_to_get_them(name: str, tmp_path: Path) -> None:
    for options in ({}, {"data_root": tmp_path}, {"data_root": tmp_path / "none"}):
        with pytest.raises(UserError, match="How to get") as caught:
            load_data_set(name, cache_dir=tmp_path, **options)  # type: ignore[arg-type]
        assert "DATA_ROOT/train/" in str(caught.value)


def test_places_names_go_to_labels_by_folder(shared: Path) -> None:
    """Label 116 is desert_road in the lists, and line 116 of the class names is desert-sand."""
    splits = shared / "data" / "splits"
    listing = parse_list(line_blocks(splits / "Places_LT_train.txt.gz"), "x", 365, Problems(""))
    folders = class_folders(listing, 365)
    names_of_file = read_lines(splits / "Places_LT_classnames.txt.gz")
    assert parse_class_names(names_of_file, "x", lambda: folders) == tuple(folders)
    assert folders[116] == "desert_road"


def test_imagenet_needs_no_class_names(pictures: Any, tmp_path: Path, shared: Path) -> None:
    """open_clip's names are those of LIFT's file; the set then fails on its made-up list, not on the names."""
    from fastlift.data.datasets.catalogue import _imagenet_names

    text = gzip.decompress((shared / "data" / "splits" / "ImageNet_LT_classnames.txt.gz").read_bytes()).decode()
    assert _imagenet_names() == parse_class_names(lines_of(text.rstrip()), "x")
    for file in ("ImageNet_LT_train.txt", "ImageNet_LT_test.txt"):
        (pictures.root / file).write_text("train/n0/0.jpg 0\n")
    with pytest.raises(UserError, match=r"1 lines, ImageNet-LT has 115,846"):
        load_data_set("imagenet_lt", data_root=pictures.root, cache_dir=tmp_path)


def test_published_counts_are_checked(pictures: Any, tmp_path: Path) -> None:
    for label in range(365):
        pictures.lines.append(f"train/folder{label}/0.jpg {label}")
    for file in ("Places_LT_train.txt", "Places_LT_test.txt"):
        (pictures.root / file).write_text("\n".join(pictures.lines))
    (pictures.root / "Places_LT_classnames.txt").write_text("".join(f"folder{i} name {i}\n" for i in range(365)))
    with pytest.raises(UserError) as caught:
        load_data_set("places_lt", data_root=pictures.root, cache_dir=tmp_path)
    message = str(caught.value)
    assert "Places_LT_train.txt: 365 lines, Places-LT has 62,500" in message
    assert "largest and smallest class have 1 and 1 images, Places-LT has 4980 and 5" in message
    assert "Places_LT_test.txt: 365 lines, Places-LT has 36,500 or 7,300" in message


def test_the_real_lists_pass_and_only_the_images_are_missing(shared: Path, tmp_path: Path) -> None:
    splits = shared / "data" / "splits"
    with pytest.raises(UserError) as caught:
        load_data_set("places_lt", data_root=splits, cache_dir=tmp_path)
    message = str(caught.value)
    assert "99,000 problems, the first 10" in message  # 62,500 + 36,500 missing files, and nothing else
    assert message.count(": missing") == 10


def test_flags_that_a_set_cannot_use_are_refused(tmp_path: Path) -> None:
    for options in ({"train_list": tmp_path}, {"class_names": tmp_path}):
        with pytest.raises(UserError, match=r"--train-list|--class-names"):
            load_data_set("cifar10_ir100", **options)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="--dataset list needs"):
        load_data_set("list", data_root=tmp_path)


@pytest.mark.parametrize(("ratio", "total", "smallest"), [(100, 10_847, 5), (50, 12_608, 10), (10, 19_573, 50)])
def test_cifar100_lt_has_the_papers_counts(ratio: int, total: int, smallest: int) -> None:
    counts = long_tail_counts(100, 500, ratio)
    assert (counts.sum(), counts.max(), counts.min()) == (total, 500, smallest)


def test_cifar_draw_is_the_papers_draw() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(4), 50))
    kept = draw_long_tail(labels, 10)
    assert np.bincount(labels[kept]).tolist() == long_tail_counts(4, 50, 10).tolist()
    random = np.random.RandomState(0)
    expected = np.flatnonzero(labels == 0)
    random.shuffle(expected)
    assert kept[:50].tolist() == expected.tolist()
    second = np.flatnonzero(labels == 1)
    random.shuffle(second)
    assert kept[50:73].tolist() == second[:23].tolist()


def test_cifar_from_class_folders(pictures: Any, tmp_path: Path, encode: Callable, make_picture: Callable) -> None:
    """A tree with fewer pictures than CIFAR is refused with the counts; a whole one is in ``test_real_cifar``."""
    for split in ("train", "test"):
        for label in range(10):
            pictures.add(f"{split}/c{label}/0.png", label, encode(make_picture(32, 32), "PNG"))
    with pytest.raises(UserError, match="1 pictures, expected 5000"):
        load_data_set("cifar10_ir100", data_root=pictures.root, cache_dir=tmp_path)


def test_cifar_arrays_through_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's own file format, small: its hashes are those of the real files, so the check is patched."""
    import pickle

    from torchvision.datasets import CIFAR10

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    random = np.random.default_rng(0)
    for k, (file, _) in enumerate([*CIFAR10.train_list, *CIFAR10.test_list]):
        labels = np.repeat(np.arange(10), 4)
        batch = {"data": random.integers(0, 256, (40, 3072), dtype=np.uint8), "labels": labels.tolist(), "k": k}
        (folder / file).write_bytes(pickle.dumps(batch))
    names_of = {"label_names": [f"name {i}" for i in range(10)]}
    (folder / "batches.meta").write_bytes(pickle.dumps(names_of))
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    data = load_data_set("cifar10_ir10", data_root=folder, cache_dir=tmp_path / "cache")
    assert data.train.arrays is not None
    assert data.train.class_counts().tolist() == long_tail_counts(10, 20, 10).tolist()
    assert len(data.test) == 40
    assert data.class_names[3] == "name 3"


def test_cifar_that_is_not_there_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cifar-100-python\.tar\.gz"):
        load_data_set("cifar100_ir100", data_root=tmp_path)


def test_real_cifar(shared: Path, tmp_path: Path) -> None:
    import subprocess

    (tmp_path / "cifar").mkdir()
    for split in ("train", "test"):
        archive = shared / "data" / f"cifar10_{split}.tar"
        if not archive.is_file():
            pytest.skip("no CIFAR-10 pictures beside the repository")
        subprocess.run(["tar", "-xf", archive, "-C", tmp_path / "cifar"], check=True)
    data = load_data_set("cifar10_ir100", data_root=tmp_path / "cifar", cache_dir=tmp_path / "cache")
    assert data.train.class_counts().tolist() == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    assert data.test.class_counts().tolist() == [1000] * 10


@pytest.mark.parametrize("label", ["\u00b2", "--5", "1.0", "x"])
def test_what_is_no_label(label: str) -> None:
    problems = Problems("x")
    parse(f"a.jpg 0\nb.jpg {label}\n", 3, problems)
    assert len(problems.entries) == 1
    assert "list line 2: no label" in problems.entries[0]


@pytest.mark.parametrize("classes", [3, None])
def test_a_label_beyond_all_numbers(classes: int | None) -> None:
    problems = Problems("x")
    parse(f"a.jpg 0\nb.jpg {10**30}\n", classes, problems)
    assert "is out of range" in problems.entries[0]


def test_null_characters_are_told() -> None:
    problems = Problems("x")
    assert len(parse("a\0b.jpg 0\nc.jpg 1\n", 3, problems).paths) == 1
    assert "null character" in problems.entries[0]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_all_line_ends_and_no_others(end: str, tmp_path: Path) -> None:
    """Line separators of Unicode may stand in file names."""
    problems = Problems("x")
    (tmp_path / "list").write_text(f"a\u2028b.jpg 0{end}c\x85d.jpg 1{end}", encoding="utf-8", newline="")
    listing = parse_list(line_blocks(tmp_path / "list"), "list", 2, problems)
    assert list(listing.paths) == ["a\u2028b.jpg", "c\x85d.jpg"]
    assert not problems.entries


def test_class_names_that_are_no_text() -> None:
    with pytest.raises(UserError, match="line 2 is not UTF-8"):
        parse_class_names(lines_of(b"cat\ncaf\xe9".decode("utf-8", "surrogateescape")), "names")


@pytest.mark.parametrize("num_classes", [7, None])
def test_lines_in_columns_are_read_as_lines_by_themselves(num_classes: int | None) -> None:
    """Ordinary lines are read by the million, odd ones one by one: a mixture of both, against one by one."""
    random = np.random.default_rng(0)
    pieces = [*"ab/.: \t\\", "..", "\u3000", "\x85", "\udcff", "\0", "é", "c/d.jpg", "\x1c", "-"]
    ends = [
        *(f" {k}" for k in range(9)),
        "  3",
        " 3 ",
        "\t3",
        "\u30003",
        " 03",
        " 99999999999",
        " 2147483647",
        " -1",
        "",
        "5",
        " ",
    ]
    for _ in range(30):
        lines = []
        for _ in range(40):
            size = random.integers(0, 6)
            path = "x/y.jpg" if random.random() < 0.3 else "".join(random.choice(pieces, size))
            lines.append(path + str(random.choice(ends)))
        problems, expected = Problems("x"), []
        listing = parse("".join(f"{line}\n" for line in lines), num_classes, problems)
        told = []
        for number, line in enumerate(lines, start=1):
            try:
                found = _parse_line(line, num_classes)
            except ValueError as error:
                told.append(f"list line {number}: {error}")
            else:
                expected += [] if found is None else [found]
        assert list(zip(listing.paths, listing.labels.tolist(), strict=True)) == expected
        assert problems.entries == (told or ([] if expected else ["list: no lines"]))


def test_folders_of_paths() -> None:
    paths = ["a/b/c.jpg", "c.jpg", "b/c.jpg", "/c", "é/d e/f", "a/b/"]
    assert list(PathTable.from_strings(paths).folders()) == ["b", "", "b", "", "d e", "b"]
    table = PathTable.from_strings(paths)
    assert list(table.take(np.array([4, 0, 0]))) == ["é/d e/f", "a/b/c.jpg", "a/b/c.jpg"]
    assert list(PathTable.joined([table, table.take(np.array([1]))])) == [*paths, "c.jpg"]
    assert list(PathTable.joined([])) == []


def test_problems_of_lines_and_of_files_come_together(pictures: Any) -> None:
    pictures.fill()
    pictures.add("c0/gone.jpg", 0, None)
    pictures.lines.insert(0, "c0/none.jpg 7")
    with pytest.raises(UserError) as caught:
        pictures.load()
    problems = caught.value.problems.entries  # type: ignore[attr-defined]
    assert ["out of range" in problem for problem in problems] == [True, True, False, False]
    assert all("gone.jpg: missing" in problem for problem in problems[2:])


def test_a_label_far_off_does_not_fill_the_memory(pictures: Any) -> None:
    """Without class names, the largest label tells their number."""
    pictures.fill().add("c2/0.jpg", 2**31 - 2, None)
    lists = pictures.root / "list.txt"
    lists.write_text("\n".join(pictures.lines))
    with pytest.raises(UserError, match="class 3 has no image"):
        load_data_set("list", data_root=pictures.root, train_list=lists, test_list=lists, cache_dir=pictures.cache)


def test_a_list_that_tells_no_names_because_of_its_mistakes(tmp_path: Path) -> None:
    lists = tmp_path / "list.txt"
    lists.write_text("a/1.jpg\nb/2.jpg\n")
    with pytest.raises(UserError, match="line 1: no label"):
        load_data_set("list", data_root=tmp_path, train_list=lists, test_list=lists, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize(("name", "expected"), [("list", "start from"), ("cifar10_ir100", "cs.toronto.edu")])
def test_a_missing_data_root_says_what_it_must_hold(name: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=expected):
        load_data_set(name, data_root=tmp_path / "nowhere")


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="FASTLIFT_CACHE"):
        load_data_set("shapes_lt", cache_dir=tmp_path / "file")


def test_a_data_root_without_a_data_set_is_not_taken_for_the_drawn_one(tmp_path: Path) -> None:
    """The default set draws itself; who names a folder means other pictures."""
    with pytest.raises(UserError, match=r"does not hold shapes_lt: train\.txt is not there.*--dataset folder"):
        load_data_set("shapes_lt", data_root=tmp_path)
