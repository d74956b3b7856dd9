"""PyTorch's own formats: a program (pt2), one compiled for this kind of CPU (AOTInductor), and TorchScript.

TorchScript is made by ``torch.jit.trace`` of the model itself. A program of ``torch.export`` cannot become TorchScript:
``torch.jit.script`` refuses its module, and a trace of it holds the number of images fast (torch 2.14).
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from fastlift.errors import UserError
from fastlift.interop.export.source import Source, quiet

_FILE = "fastlift.json"  # of the description in archives


def write_pt2(source: Source, path: Path, description: str) -> None:
    """The program with its weights."""
    buffer = io.BytesIO()  # by name, PyTorch would insist on the suffix .pt2, which a user's file may not have
    torch.export.save(source.program, buffer, extra_files={_FILE: description})
    path.write_bytes(buffer.getvalue())


def read_pt2(path: Path, threads: int) -> Callable[[Tensor], Tensor]:
    """The program, run op by op."""
    return torch.export.load(io.BytesIO(path.read_bytes())).module()


def write_aoti(source: Source, path: Path, description: str) -> None:
    """The program compiled by inductor to a library for CPUs like this one, in a package with its weights."""
    buffer = io.BytesIO()
    try:
        with quiet():
            torch._inductor.aoti_compile_and_package(
                source.program,
                package_path=buffer,
                inductor_configs={"aot_inductor.metadata": {"fastlift": description}},
            )
    except Exception as error:  # whatever a compiler or its absence leads to
        first = (str(error).strip().splitlines() or [""])[0]
        raise UserError(
            f"AOTInductor could not compile the model ({type(error).__name__}: {first[:200]}); it needs a C++ compiler such "
            "as g++. --format pt2 needs none",
            exit_code=1,
        ) from error
    path.write_bytes(buffer.getvalue())


def read_aoti(path: Path, threads: int) -> Callable[[Tensor], Tensor]:
    """The compiled library, which takes memory as contiguous and does not look."""
    package = torch._inductor.aoti_load_package(io.BytesIO(path.read_bytes()))
    served = cast(Callable[[Tensor], Tensor], package)
    return lambda images: served(images.contiguous())


def write_torchscript(source: Source, path: Path, description: str) -> None:
    """A trace of the model, for programs that still load TorchScript."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # that it is deprecated, which the command's help says
        traced = torch.jit.trace(source.serving, source.images, check_trace=False)
        torch.jit.save(traced, str(path), _extra_files={_FILE: description})


def read_torchscript(path: Path, threads: int) -> Callable[[Tensor], Tensor]:
    """What ``torch.jit.load`` gives."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.load(str(path))
