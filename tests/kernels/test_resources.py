"""No Triton kernel spills registers or outgrows an architecture's shared memory; the kept table is of these sources."""

import importlib.util
import os
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "benchmarks" / "results" / "kernel_resources.md"
COMPILED_HERE = (
    "adapter forward bf16 rank 32",
    "adapter tokens backward bf16 rank 32",
    "adapter width backward bf16 rank 64",
    "adapter width backward fp32/bf16 rank 128",
    "attention forward 32 bf16 77 tokens 64 wide causal",
)


@pytest.fixture(scope="module")
def resources() -> ModuleType:
    pytest.importorskip("triton")
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("interpreted kernels are not compiled")
    spec = importlib.util.spec_from_file_location("resources", ROOT / "benchmarks" / "ops" / "resources.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["resources"] = module  # its dataclasses look themselves up
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks" / "ops")  # scripts, which find each other there
        spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", COMPILED_HERE)
@pytest.mark.parametrize("architecture", [86, 90])
def test_compiles_without_a_spill(resources: Any, name: str, architecture: int) -> None:
    case = next(case for case in resources.cases() if case.name == name)
    got = resources.compile_case(case, architecture)
    assert got.spilled == 0
    assert 0 < got.shared <= resources.SHARED_LIMIT[architecture]
    assert re.search(r"\d+ (mma|wgmma)", got.matrix)


def test_rows_are_quantised_by_exact_division(resources: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's own is two units in the last place off on a GPU, and a number between two 8-bit ones would fall elsewhere."""
    compiled, build = [], resources.triton.compile

    def kept(*args: Any, **options: Any) -> Any:
        compiled.append(build(*args, **options))
        return compiled[-1]

    monkeypatch.setattr(resources.triton, "compile", kept)
    resources.compile_case(next(case for case in resources.cases() if case.name.startswith("quantise rows")), 90)
    assert set(re.findall(r"div\.\w+", compiled[0].asm["ptx"])) == {"div.rn"}


def test_kept_table_is_complete_and_of_these_sources(resources: Any) -> None:
    rows = resources.known_rows(TABLE, TABLE.read_text(encoding="utf-8").splitlines()[0])
    wanted = {
        (case.name, architecture, resources.fingerprint(case))
        for case in resources.cases()
        for architecture in resources.architectures_of(case)
    }
    assert set(rows) == wanted, f"the kernels changed: run benchmarks/ops/resources.py --output {TABLE}"
    for row in rows.values():
        cells = [cell.strip() for cell in row.split("|")]
        assert int(cells[5]) == 0, row
        assert int(cells[6]) <= resources.SHARED_LIMIT[int(cells[3])], row


def test_bytes_of_the_mlp_by_count() -> None:
    """A third less than with passes of their own: nine reads or writes of the hidden layer are six."""
    sys.path.insert(0, str(ROOT / "benchmarks" / "ops"))
    try:
        from traffic import mlp, mlp_eager
    finally:
        sys.path.pop(0)
    assert mlp_eager(768, 3072, 2) == (32_256, 33_792)
    assert mlp(768, 3072, 2) == (23_040, 21_504)
    assert mlp(768, 3072, 2, kept=False)[0] == 16_896


def test_bytes_by_count() -> None:
    sys.path.insert(0, str(ROOT / "benchmarks" / "ops"))
    try:
        from traffic import adapter_by_products, adapter_on_a_gpu
    finally:
        sys.path.pop(0)
    tokens = 128 * 197
    forward, backward = adapter_on_a_gpu(768, 32, 2, tokens, multiprocessors=132)
    assert forward.per_token(tokens) <= 4700
    assert backward.per_token(tokens) <= 10_000
    assert adapter_on_a_gpu(768, 256, 2, tokens, multiprocessors=132) == adapter_by_products(768, 256, 2)
