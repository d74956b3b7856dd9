"""How kernels are launched: for any number of tokens one code, the short way passes what Triton's own does, tf32 as asked for."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import fastlift_kernels

pytest.importorskip("triton")

from fastlift_kernels.adapter import fused_backward
from fastlift_kernels.triton_launch import kinds


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if shutil.which("cc") is None or not sys.platform.startswith("linux"):
        pytest.skip("needs a C compiler, for a CUDA driver that does nothing")
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("interpreted kernels are not compiled")
    script, folder = Path(__file__).parent / "launched.py", tmp_path_factory.mktemp("driver")
    command = [sys.executable, str(script), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_one_code_for_any_number_of_tokens(launched: dict[str, Any]) -> None:
    """A partial batch, and the one image whose FLOP are counted, run what a full batch has compiled."""
    compiled = launched["compiled"]
    assert len(compiled) == 19
    assert compiled["attention_forward_kernel"] == 2  # in bfloat16 and in float32
    once = [count for name, count in compiled.items() if not name.startswith(("activation", "attention_forward"))]
    assert set(once) == {1}, compiled
    assert compiled["activation_forward_kernel"] == compiled["activation_backward_kernel"] == 1


def test_the_short_way_passes_the_same(launched: dict[str, Any]) -> None:
    assert launched["different"] == []


def test_no_more_than_a_chunk_of_logits_is_alive(launched: dict[str, Any]) -> None:
    """A quarter of these in float32, and an eighth as their gradient in bf16: not the batch's, which grow with it."""
    assert 0.25 < launched["logits_alive"] < 0.5


def test_tensors_that_are_not_aligned_have_no_key() -> None:
    x = torch.zeros(64)
    assert kinds((x, None, x.bfloat16()), 3) == (-1, 3, torch.float32, None, torch.bfloat16)
    assert kinds((x, x[1:]), 3) is None
    assert kinds((x, x[4:]), 3) is not None


@pytest.mark.parametrize(
    ("tokens", "multiprocessors", "expected"),
    [(100_864, 132, 22), (100_864, 108, 18), (100_864, 8, 1), (1182, 132, 5), (1, 132, 1), (64, 132, 1)],
)
def test_splits_follow_the_size_of_the_gpu(tokens: int, multiprocessors: int, expected: int) -> None:
    """12 programs a split: as many splits as the GPU has room for at once, none empty, all tokens in one."""
    splits, span = fused_backward.splits_of(tokens, programs=12, multiprocessors=multiprocessors)
    assert splits == expected
    assert span % 64 == 0
    assert (splits - 1) * span < tokens <= splits * span


@pytest.mark.parametrize(
    ("set_it", "expected"),
    [
        ("pass", "ieee"),
        ("torch.backends.cuda.matmul.allow_tf32 = True", "tf32"),
        ("torch.set_float32_matmul_precision('high')", "tf32"),
        ("torch.backends.cuda.matmul.fp32_precision = 'tf32'", "tf32"),
        ("torch.backends.cuda.matmul.fp32_precision = 'ieee'", "ieee"),
        ("torch.backends.cuda.matmul.allow_tf32 = True; torch.backends.cuda.matmul.fp32_precision = 'ieee'", "ieee"),
    ],
)
def test_float32_products_as_pytorch_is_allowed_to(set_it: str, expected: str) -> None:
    """By the older setting and by the newer one, after which reading the older one raises."""
    code = f"import torch; {set_it}; from fastlift_kernels.triton_launch import dot_precision as p; print(p(torch.float32))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == expected, done.stderr[-2000:]


@pytest.mark.parametrize("op", [fastlift_kernels.quick_gelu, fastlift_kernels.gelu])
def test_activations_are_open_to_inductor_on_a_gpu(op: Any) -> None:
    """So that it fuses them with the passes and products beside them; on a CPU, and by name, they stay ops."""
    traced: list[list[str]] = []

    def backend(module: torch.fx.GraphModule, _inputs: Any) -> Any:
        traced.append([str(node.target) for node in module.graph.nodes if node.op == "call_function"])
        return module.forward

    def ours(device: str, impl: str | None) -> bool:
        torch._dynamo.reset()
        with FakeTensorMode():
            torch.compile(lambda x: op(x, impl=impl), backend=backend, fullgraph=True)(torch.empty(4, 8, device=device))
        return any("fastlift_kernels" in target for target in traced[-1])

    assert not ours("cuda", None)
    assert ours("cuda", "triton")
    assert ours("cpu", None) == fastlift_kernels.available()["native"]


def test_kernels_have_names_of_their_own() -> None:
    """In a profile of a step nobody should have to guess whose kernel it is."""
    adapter = ("folded", "fused_forward", "fused_backward", "parameters_backward", "wide")
    others = ("cosine_ce.rows", "activation.gpu", "quantise.gpu", "mlp.gpu")
    for name in (*(f"adapter.{file}" for file in adapter), *others):
        module = importlib.import_module(f"fastlift_kernels.{name}")
        names = [name for name in vars(module) if name.endswith("_kernel")]
        assert names
        assert all(name.split("_")[0] in ("adapter", "classifier", "activation", "quantise", "mlp") for name in names)
