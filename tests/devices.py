"""Where a test runs: on the CPU and, by the same assertions, on a GPU where there is one (``pytest -m gpu`` runs those alone).

``device`` (a fixture of conftest.py) runs a test on each of ``DEVICES``; tests with parameters of their own take the lists.
"""

import pytest
import torch


def on_gpu(name: str = "cuda") -> list[pytest.MarkDecorator]:
    """Marks of what needs the GPU ``name``: selected by ``-m gpu``, skipped with the reason where it is not there."""
    index = torch.device(name).index or 0
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    reason = "no GPU is visible to PyTorch here" if not there else f"this machine has {there} GPU(s)"
    return [pytest.mark.gpu, pytest.mark.skipif(index >= there, reason=reason)]


def has_fp8_product() -> bool:
    """Whether this PyTorch multiplies fp8 with a scale a row on a CPU, as newer ones do."""
    rows, ones = torch.zeros(16, 16).to(torch.float8_e4m3fn), torch.ones(16, 1)
    try:
        torch._scaled_mm(rows, rows.t(), ones, ones.t(), out_dtype=torch.bfloat16)
    except (RuntimeError, NotImplementedError):
        return False
    return True


needs_fp8_product = pytest.mark.skipif(not has_fp8_product(), reason="this torch has no scaled product on CPUs")
CPU = pytest.param("cpu")
CUDA = pytest.param("cuda", marks=on_gpu())
SECOND_CUDA = pytest.param("cuda:1", marks=on_gpu("cuda:1"))
DEVICES = [CPU, CUDA]
EVERY_DEVICE = [CPU, CUDA, SECOND_CUDA]
