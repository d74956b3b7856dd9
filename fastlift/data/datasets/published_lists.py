"""List files of published sets that come by themselves: shipped with fastlift, kept in the cache, or downloaded into it.

Downloads are verified by the hash under which git keeps a file, so it does not matter which repository gives it. The addresses are
those of the repositories' trees at the named commits, whose hashes were compared; none of them could be reached from the machine on
which this was written.
"""

from __future__ import annotations

from pathlib import Path

from fastlift.data.stores.client import StoreError
from fastlift.data.stores.download import Mirror, Progress, download, is_digest_of
from fastlift.data.stores.url import Url, place_of
from fastlift.errors import UserError

SHIPPED = Path(__file__).with_name("lists")

_IMAGENET_TRAIN = "git:a063f095fcd475db4cf8b0658c4b73955535bbf9"
_INATURALIST_TRAIN = "git:4accdb7584d2f0a5106c40a33ed6afa392189bcc"
_INATURALIST_VAL = "git:4c23900857fd0f5adcd4cc0dffef345039eeb05f"
_BUCKET = "https://ml-inat-competition-datasets.s3.amazonaws.com/2018"  # where iNaturalist's own files are published
# Repository, commit, and the folder in which each has the lists.
_LIFT = ("shijxcs/LIFT", "661ead9b78368f05ba79abe4672d63154467f823", "datasets")
_DECOUPLING = ("facebookresearch/classifier-balancing", "f162adef63fdf592d0b8a0f6e52bc481fc08785f", "data")
_META_SOFTMAX = ("jiawei-ren/BalancedMetaSoftmax-Classification", "34a61e432881816c2da14d577d6ed63501288f5f", "data")
_NC_FEATURE = ("Pepper-lll/NCfeature", "a11c2c51263ed5c06d152f8a439bf21c1913f668", "data")


def _github(path: str, digest: str) -> tuple[Mirror, ...]:
    """One after another from the repositories that have the same file."""
    repositories = (_LIFT, _DECOUPLING, _META_SOFTMAX)
    return tuple(
        Mirror(f"https://raw.githubusercontent.com/{name}/{commit}/{folder}/{path}", digest)
        for name, commit, folder in repositories
    )


def _delivered(path: str, digest: str) -> Mirror:
    """GitHub's files from another host, which takes small repositories alone."""
    name, commit, folder = _NC_FEATURE
    return Mirror(f"https://cdn.jsdelivr.net/gh/{name}@{commit}/{folder}/{path}", digest)


_TRAIN = "ImageNet_LT/ImageNet_LT_train.txt"
# By the name under which a file is kept; of the same list the first is tried first.
DOWNLOADS: dict[str, tuple[Mirror, ...]] = {
    "ImageNet_LT_train.txt": (*_github(_TRAIN, _IMAGENET_TRAIN), _delivered(_TRAIN, _IMAGENET_TRAIN)),
    "iNaturalist18_train.txt": _github("iNaturalist18/iNaturalist18_train.txt", _INATURALIST_TRAIN),
    "iNaturalist18_val.txt": _github("iNaturalist18/iNaturalist18_val.txt", _INATURALIST_VAL),
    "train2018.json": (
        Mirror(f"{_BUCKET}/train2018.json.tar.gz", "md5:bfa29d89d629cbf04d826a720c0a68b0", "train2018.json"),
    ),
    "val2018.json": (Mirror(f"{_BUCKET}/val2018.json.tar.gz", "md5:f2ed8bfe3e9901cdefceb4e53cd3775d", "val2018.json"),),
}


def shipped(name: str) -> Path | None:
    """A file that comes with fastlift, packed; None where there is none of this name."""
    file = SHIPPED / f"{name}.gz"
    return file if file.is_file() else None


def place_of_list(given: str | Path) -> Path | Url:
    """A list file that a user named: a URL, a path, or the bare name of a list that comes with fastlift."""
    place = place_of(given)
    if isinstance(place, Path) and len(place.parts) == 1 and not place.exists():
        return shipped(place.name) or place
    return place


def told_place(file: Path) -> str:
    """Where a list is, for a message."""
    return f"{file.stem} (comes with fastlift)" if file.parent == SHIPPED else str(file)


def come_by_itself(files: tuple[str, ...], cache: Path, progress: Progress | None = None) -> Path:
    """One of ``files`` that is shipped, or in the cache, or downloaded now.

    Raises:
        StoreError: it could not be downloaded; what it says ends with what to copy, and not yet where.
    """
    for name in files:
        if (file := shipped(name)) is not None:
            return file
    names = [name for name in DOWNLOADS if name in files]
    kept = {name: kept_in(cache) / name for name in names}
    for name, file in kept.items():
        if _is_whole(file, DOWNLOADS[name]):
            return file
    failed = []
    for name, file in kept.items():
        try:
            download(DOWNLOADS[name], file, progress)
            return file
        except StoreError as error:
            failed.append(str(error))
        except OSError as error:
            raise UserError(f"{name} cannot be kept in {file.parent} ({error.strerror}): set FASTLIFT_CACHE") from None
    raise StoreError(f"{'; '.join(failed)}: copy {DOWNLOADS[names[0]][0].url}")


def kept_in(cache: Path) -> Path:
    """The folder of downloaded lists in fastlift's cache."""
    return cache / "lists"


def _is_whole(file: Path, mirrors: tuple[Mirror, ...]) -> bool:
    """Whether a list was downloaded, and is as it was published; of what came in an archive the archive alone has a digest."""
    return file.is_file() and (bool(mirrors[0].member) or is_digest_of(mirrors[0].digest, file))
