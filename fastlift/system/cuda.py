"""Whether this PyTorch and this Triton can use the GPU that is here; where they cannot: why, and what to install."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from fastlift.errors import UserError
from fastlift.system.machine import Driver, driver, gpus_are_hidden

# The oldest driver that runs programs made with a CUDA of this major version (table 1 of
# https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html).
_LEAST_DRIVER = {11: "450", 12: "525", 13: "580"}


@dataclass(frozen=True)
class Trouble:
    """What is amiss, and what to do about it."""

    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.what}; {self.fix}"


def trouble(index: int = 0) -> Trouble | None:
    """Why PyTorch does not compute on GPU ``index`` though this machine has one.

    None where it does, where there is no GPU, and where CUDA_VISIBLE_DEVICES hides them: that was somebody's wish.
    """
    with warnings.catch_warnings(record=True) as caught:  # torch's own words are part of ours
        warnings.simplefilter("always")
        try:
            if torch.cuda.is_available():
                return _without_code(index) if index < torch.cuda.device_count() else None
        except RuntimeError as error:  # a driver that is there and does not start
            what = f"PyTorch cannot start CUDA ({str(error).splitlines()[0]})"
            return Trouble(what, "nvidia-smi tells whether the driver is well")
    found = None if gpus_are_hidden() else driver()
    return None if found is None else _unused(found, " ".join(str(entry.message) for entry in caught))


def _unused(found: Driver, torchs_words: str) -> Trouble:
    """What is amiss with a driver of which PyTorch sees no GPU."""
    names = ", ".join(dict.fromkeys(found.gpus)) or "no GPU"
    if found.cuda is None and not found.gpus:
        what = (
            f"the NVIDIA driver {found.version} is loaded, but its library is not here, as in a container without GPUs"
        )
        return Trouble(what, "start it with them: docker run --gpus all")
    if torch.version.cuda is None:
        what = f"this PyTorch ({torch.__version__}) is built without CUDA, and the NVIDIA driver {found.version} lists {names}"
        return Trouble(what, "pip install --force-reinstall torch torchvision   (Linux packages from PyPI have CUDA)")
    needed = int(torch.version.cuda.partition(".")[0])
    ours = f"this PyTorch ({torch.__version__}), which is built for CUDA {torch.version.cuda}"
    if found.cuda is not None and found.cuda[0] < needed:
        least = f" and needs driver {_LEAST_DRIVER[needed]} or newer" if needed in _LEAST_DRIVER else ""
        major, minor = found.cuda
        return Trouble(
            f"the NVIDIA driver {found.version} ({names}) runs CUDA up to {major}.{minor} and is too old for {ours}{least}",
            f"update the driver, or install a PyTorch built for CUDA {major} (https://pytorch.org)",
        )
    said = f" ({' '.join(torchs_words.split())[:300]})" if torchs_words else ""
    return Trouble(
        f"the NVIDIA driver {found.version} lists {names}, but {ours}, sees none{said}",
        "nvidia-smi tells whether the driver is well",
    )


def _without_code(index: int) -> Trouble | None:
    """This build of PyTorch has no code for a GPU, where it has none. Of AMD's GPUs nothing is asked."""
    built = [_code(name) for name in torch.cuda.get_arch_list() if name.startswith(("sm_", "compute_"))]
    card = torch.cuda.get_device_capability(index)
    if not built or any(code.runs_on(card) for code in built):
        return None
    capabilities = sorted(code.capability for code in built)
    least, most = (".".join(map(str, end)) for end in (capabilities[0], capabilities[-1]))
    too, other = ("old", "an older") if card < capabilities[0] else ("new", "a newer")
    return Trouble(
        f"the GPU {torch.cuda.get_device_name(index)} (capability {card[0]}.{card[1]}) is too {too} for this PyTorch "
        f"({torch.__version__}), which has code for capabilities {least} to {most}",
        f"install {other} build (https://pytorch.org)",
    )


@dataclass(frozen=True)
class _Code:
    """Machine code (``sm``) or PTX (``compute``); ``only`` is "a" for one architecture alone, "f" for one family."""

    kind: str
    capability: tuple[int, int]
    only: str

    def runs_on(self, card: tuple[int, int]) -> bool:
        """Machine code runs on its major version from its minor one on, PTX on whatever is newer."""
        if self.only == "a":
            return card == self.capability
        if self.kind == "compute" and not self.only:
            return card >= self.capability
        return card[0] == self.capability[0] and card >= self.capability


def _code(name: str) -> _Code:
    """Of ``sm_90``, ``sm_100a``, ``compute_120``."""
    kind, _, number = name.partition("_")
    digits = number.rstrip("af")
    return _Code(kind, (int(digits[:-1]), int(digits[-1])), number[len(digits) :])


def triton_trouble() -> Trouble | None:
    """Why Triton, which is installed, cannot start kernels here.

    None where it can, or is not installed. It compiles a little C at run time, against Python's headers, and keeps the
    result in its cache.
    """
    if importlib.util.find_spec("triton") is None:
        return None
    instead = "or uninstall triton: the fused operations then run as plain PyTorch"
    try:
        import triton.runtime  # noqa: F401
    except Exception as error:  # a library of it that does not load
        what = f"Triton is installed but cannot be imported ({type(error).__name__}: {error})"
        return Trouble(what, f"pip install --force-reinstall triton, {instead}")
    if not os.environ.get("CC") and not any(map(shutil.which, ("gcc", "clang"))):
        what = "Triton needs a C compiler to start its kernels, and finds none (no gcc or clang in PATH, CC is not set)"
        return Trouble(what, f"apt-get install gcc, {instead}")
    scheme = sysconfig.get_default_scheme()  # Triton looks in another one on Debian, whose own has no headers
    headers = Path(sysconfig.get_paths(scheme="posix_prefix" if scheme == "posix_local" else scheme)["include"])
    if not (headers / "Python.h").is_file():
        what = f"Triton needs Python's headers to start its kernels, and {headers} has no Python.h"
        return Trouble(what, f"apt-get install python3-dev, {instead}")
    return None


def check_triton(device: torch.device) -> None:
    """Refuse a GPU on which Triton is installed and cannot start kernels, before the first step ends in a traceback."""
    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return
    try:
        import triton.runtime

        getattr(triton.runtime.driver.active, "utils", None)  # compiles, or finds in the cache, what every launch needs
    except Exception as error:
        known = triton_trouble()
        raise UserError(
            f"Triton does not work here ({type(error).__name__}: {error})" if known is None else str(known), exit_code=1
        ) from error
