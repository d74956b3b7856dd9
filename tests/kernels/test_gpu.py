"""The ops on a GPU: large and odd calls against float64, and everything around a call that a CPU has not.

Variants and small shapes are in the ops' own tests, which run there too.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from attention_cases import AttentionCase, attention_case
from devices import EVERY_DEVICE, on_gpu
from error_bounds import assert_within_bounds
from kernel_cases import Case, MlpCase, Results, activation_case, adapter_case, cosine_case, mlp_case

import fastlift_kernels

GPUS = EVERY_DEVICE[1:]
HALF, SINGLE = torch.bfloat16, torch.float32


def calls() -> list[Any]:
    """One small call of each op, of the adapter by kernels and by library products."""
    return [
        pytest.param(lambda: adapter_case(3, 41, 96, rank=8, dtype=HALF), id="adapter"),
        pytest.param(lambda: adapter_case(3, 41, 96, rank=160, dtype=HALF), id="adapter by products"),
        pytest.param(lambda: cosine_case(33, 64, 203, dtype=HALF, weighted=True, label_smoothing=0.1), id="classifier"),
        pytest.param(lambda: mlp_case(3, 41, 96, hidden=264, dtype=HALF, scaled=True), id="mlp"),
        pytest.param(lambda: activation_case("quick_gelu", 4099, dtype=HALF), id="quick_gelu"),
        pytest.param(lambda: activation_case("gelu", 4099, dtype=HALF), id="gelu"),
        pytest.param(lambda: attention_case(2, 37, 2, 64, dtype=HALF), id="attention"),
        pytest.param(
            lambda: attention_case(1, 258, 2, 64, queries=3, patches=256, first=1, dtype=HALF), id="attention in passes"
        ),
    ]


each_call = pytest.mark.parametrize("make", calls())
each_gpu = pytest.mark.parametrize("gpu", GPUS)


@pytest.mark.parametrize("gpu", GPUS[:1])
@pytest.mark.parametrize("dtype", [HALF, torch.float16, SINGLE])
@pytest.mark.parametrize(
    ("tokens", "width", "rank"),
    [
        (25_216, 768, 32),
        (1, 768, 32),
        (6 * 197, 768, 32),
        (5000, 1024, 256),
        (2999, 768, 512),
        (1001, 768, 1),
        (300, 768, 65),
        (300, 768, 128),
        (300, 768, 129),
    ],
)
def test_adapter_of_many_tokens(gpu: str, tokens: int, width: int, rank: int, dtype: torch.dtype) -> None:
    assert_within_bounds(adapter_case(tokens, width, rank=rank, dtype=dtype).on(gpu), "triton")


@pytest.mark.parametrize("gpu", GPUS[:1])
@pytest.mark.parametrize("dtype", [HALF, SINGLE])
@pytest.mark.parametrize(("batch", "classes"), [(512, 1000), (512, 8142), (700, 8142), (128, 100_000), (1, 8142)])
def test_classifier_of_many_classes(gpu: str, batch: int, classes: int, dtype: torch.dtype) -> None:
    assert_within_bounds(cosine_case(batch, 768, classes, dtype=dtype).on(gpu), "triton")


@pytest.mark.parametrize("gpu", GPUS[:1])
@pytest.mark.parametrize("dtype", [HALF, torch.float16, SINGLE])
@pytest.mark.parametrize(
    ("tokens", "width", "options"),
    [
        (1, 64, {}),
        (50, 64, {}),
        (77, 64, {"causal": True}),
        (197, 64, {}),
        (201, 64, {}),
        (197, 64, {"queries": 1}),
        (257, 64, {}),
        (261, 64, {"patches": 256, "first": 5}),
        (272, 32, {}),
        (197, 72, {}),
        (197, 96, {"patches": 196, "first": 1}),
        (261, 128, {}),
    ],
)
def test_attention_of_vits(gpu: str, tokens: int, width: int, options: dict[str, Any], dtype: torch.dtype) -> None:
    most, reason = fastlift_kernels.attention_tokens(width, dtype, torch.device(gpu))
    if tokens > most:
        pytest.skip(reason)
    assert_within_bounds(attention_case(2, tokens, 3, width, **options, dtype=dtype).on(gpu), "triton")


@pytest.mark.parametrize("gpu", GPUS[:1])
@pytest.mark.parametrize("dtype", [HALF, torch.float16])
@pytest.mark.parametrize("options", [{}, {"kind": "gelu", "scaled": True}, {"need_x": False}], ids=str)
@pytest.mark.parametrize(
    ("tokens", "width", "hidden"), [(6 * 197, 768, 3072), (1, 768, 3072), (4099, 192, 768), (777, 100, 300)]
)
def test_mlp_of_many_tokens(
    gpu: str, tokens: int, width: int, hidden: int, options: dict[str, Any], dtype: torch.dtype
) -> None:
    assert_within_bounds(mlp_case(tokens, width, hidden=hidden, dtype=dtype, **options).on(gpu), "triton")


@pytest.mark.parametrize("gpu", GPUS[:1])
def test_mlp_of_a_whole_batch(gpu: str) -> None:
    """Behind 2^31 elements of the hidden layer: each tile is that of a small call."""
    small = mlp_case(1024, 768, hidden=3072, dtype=HALF, need_x=False).on(gpu)
    leaves = small.constants()
    many = {name: leaves[name].repeat(700, 1) for name in ("x", "residual")}  # type: ignore[union-attr] # 2.2e9
    y = fastlift_kernels.mlp(**leaves | many, kind="quick_gelu", impl="triton")  # type: ignore[arg-type]
    assert torch.equal(y[-1024:], small.run("triton")["y"])


@pytest.mark.parametrize("gpu", GPUS[:1])
def test_attention_of_a_whole_batch(gpu: str) -> None:
    """Behind 2^31 elements too: each program's part is that of a small call."""
    images = 5000  # 2.3e9 elements
    small = attention_case(2, 197, 12, 64, dtype=HALF).on(gpu)
    packed = small.tensors["qkv"].detach().repeat(images // 2, 1, 1)  # type: ignore[union-attr]
    with torch.no_grad():
        out = fastlift_kernels.attention(packed, 12, impl="triton")
    assert torch.equal(out[-2:], small.run("triton")["out"])


@each_gpu
@each_call
def test_repeats_bit_by_bit(gpu: str, make: Callable[[], Case]) -> None:
    case = make().on(gpu)
    first = case.run("triton")
    for _ in range(5):
        assert same(first, case.run("triton"))


@each_gpu
@each_call
def test_on_another_stream(gpu: str, make: Callable[[], Case]) -> None:
    """Kernels go to the caller's stream: work that is queued there before and after them is in order."""
    case = make().on(gpu)
    expected = case.run("triton")
    stream = torch.cuda.Stream(gpu)
    stream.wait_stream(torch.cuda.current_stream(gpu))
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10_000_000)
        results = case.run("triton")
        results = {name: x.clone() for name, x in results.items()}
    stream.synchronize()
    assert same(expected, results)


@each_gpu
@each_call
def test_from_another_current_device(gpu: str, make: Callable[[], Case]) -> None:
    """A tensor's device decides, not the current one."""
    case = make().on(gpu)
    expected = case.run("triton")
    with torch.cuda.device(torch.cuda.device_count() - 1):
        assert same(expected, case.run("triton"))


@each_gpu
@each_call
def test_in_a_cuda_graph(gpu: str, make: Callable[[], Case]) -> None:
    case = make().on(gpu)
    expected = case.run("triton")  # compiles, which a capture must not
    with torch.cuda.device(gpu):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            case.run("triton")
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = case.run("triton")
        for x in results.values():
            x.zero_()
        graph.replay()
        torch.cuda.synchronize()
    assert same(expected, results)


@pytest.mark.parametrize("gpu", GPUS[:1])
@each_call
def test_never_waits_for_the_gpu(gpu: str, make: Callable[[], Case]) -> None:
    case = make().on(gpu)
    case.run("triton")
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        case.run("triton")
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("gpu", GPUS[:1])
@each_call
def test_compiled_without_a_graph_break(gpu: str, make: Callable[[], Case]) -> None:
    """The activations become inductor's own code there, so their results may differ within the bounds."""
    case = make().on(gpu)
    torch._dynamo.reset()
    compiled = Compiled(case)
    assert_within_bounds(compiled, "triton")


class Compiled(Case):
    """A case whose op is compiled: what ``triton`` gives is the compiled one's."""

    def __init__(self, case: Case) -> None:
        self.case, self.tensors, self.options, self.gradients = case, case.tensors, case.options, case.gradients

    def run(self, impl: str | None, dtype: torch.dtype | None = None) -> Results:
        if impl != "triton":
            return self.case.run(impl, dtype)
        names = ("adapter", "attention", "cosine_cross_entropy", "mlp", "quick_gelu", "gelu")
        plain = {name: getattr(fastlift_kernels, name) for name in names}
        with pytest.MonkeyPatch.context() as patch:
            for name, op in plain.items():
                patch.setattr(fastlift_kernels, name, torch.compile(op, fullgraph=True))
            return self.case.run(
                "triton" if isinstance(self.case, AttentionCase) else None
            )  # its default is the library's

    def bounds(self, impl: str) -> Any:
        return self.case.bounds(None if isinstance(self.case, MlpCase) else impl)  # type: ignore[arg-type] # by products


@pytest.mark.parametrize("gpu", GPUS[:1])
@pytest.mark.parametrize("rank", [8, 160])
def test_float32_tokens_are_multiplied_as_autocast_says(gpu: str, rank: int) -> None:
    case = adapter_case(131, 96, rank=rank).on(gpu)
    case.products = HALF

    class UnderAutocast(Compiled):
        def run(self, impl: str | None, dtype: torch.dtype | None = None) -> Results:
            with torch.autocast("cuda", HALF, enabled=impl == "triton"):
                return self.case.run(impl, dtype)

    cast = UnderAutocast(case)
    assert_within_bounds(cast, "triton")
    exact, results = case.run("reference", torch.float64), cast.run("triton")
    error = (results["residual"] - exact["residual"]).norm() / (exact["residual"] - case.tensors["t"]).norm()
    assert error > 1e-4  # float32 products would be far closer


@pytest.mark.parametrize("gpu", GPUS[:1])
@each_call
def test_autocast_changes_nothing_else(gpu: str, make: Callable[[], Case]) -> None:
    case = make().on(gpu)
    expected = case.run("triton")
    with torch.autocast("cuda", torch.float16):
        assert same(expected, case.run("triton"))


@pytest.mark.parametrize("gpu", GPUS[:1])
def test_strided_arguments(gpu: str) -> None:
    for case in (adapter_case(9, 6, 64, rank=8), cosine_case(9, 16, 7, bias=True, weighted=True)):
        case = case.on(gpu)
        expected = case.run("triton")
        for name, x in case.tensors.items():
            if x is not None and x.dim():
                strided = torch.stack([x.detach(), x.detach()], dim=-1)[..., 0]
                case.tensors[name] = strided.requires_grad_(x.requires_grad)
        case.gradients = [torch.stack([g, g], dim=-1)[..., 0] for g in case.gradients]
        for name, got in case.run("triton").items():
            torch.testing.assert_close(got, expected[name])


@pytest.mark.parametrize("gpu", GPUS[:1])
def test_unaligned_arguments(gpu: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that finds code compiled for aligned pointers must not run it on others."""
    case = adapter_case(33, 64, rank=8, dtype=HALF).on(gpu)
    expected = case.run("triton")
    for name in ("t", "down_weight", "up_weight"):
        x = case.tensors[name]
        memory = torch.empty(x.numel() + 1, device=gpu, dtype=x.dtype)
        moved = memory[1:].view(x.shape).copy_(x.detach()).requires_grad_(x.requires_grad)
        assert moved.data_ptr() % 16
        case.tensors[name] = moved
    monkeypatch.setattr(case, "leaves", partial(in_place, case))
    assert_within_bounds(case, "triton")
    for name, got in case.run("triton").items():
        torch.testing.assert_close(got, expected[name], rtol=2e-2, atol=2e-2)


def in_place(case: Case, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor | None]:
    """A case's leaves where its tensors lie, which a copy would not."""
    if dtype is not None:
        return Case.leaves(case, dtype)
    return {n: None if x is None else x.detach().requires_grad_(x.requires_grad) for n, x in case.tensors.items()}


@pytest.mark.parametrize("gpu", GPUS[:1])
def test_memory_of_the_classifier(gpu: str) -> None:
    """No more than the native path's: a chunk of logits beside the gradients, not the logits of the batch."""
    case = cosine_case(4096, 768, 8142, dtype=HALF).on(gpu)
    leaves = case.leaves()
    cosine_case(64, 768, 8142, dtype=HALF).on(gpu).run("triton")  # the library takes its workspace, 32 MiB on a Hopper
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats(gpu)
    before = torch.cuda.memory_allocated(gpu)
    loss, _ = fastlift_kernels.cosine_cross_entropy(**leaves)
    loss.backward()
    # 77.7 MiB by count, in five large blocks of which torch's allocator leaves up to 1 MiB unused each; another copy of the
    # smallest gradient would be 12 more, and the logits alone are 127.
    assert torch.cuda.max_memory_allocated(gpu) - before <= 84 * 2**20


@pytest.mark.parametrize("gpu", GPUS[:1])
def test_quantised_rows(gpu: str) -> None:
    if torch.cuda.get_device_capability(gpu) < (8, 9):
        pytest.skip("this GPU has no 8-bit floats")
    for width in (16, 768, 3072):
        x = torch.randn(197, width, device=gpu, dtype=HALF) * torch.logspace(-6, 6, 197, device=gpu)[:, None]
        for one, other in zip(
            fastlift_kernels.quantise_rows(x), fastlift_kernels.quantise_rows(x, impl="reference"), strict=True
        ):
            assert torch.equal(one.view(torch.uint8), other.view(torch.uint8))


@pytest.mark.parametrize("gpu", GPUS[:1])
@pytest.mark.parametrize("rank", [8, 160])
def test_a_weight_that_is_no_number_is_not_hidden(gpu: str, rank: int) -> None:
    """Neither by relu in a kernel nor in a library's epilogue: every token would look well, and be wrong."""
    leaves = adapter_case(9, 64, rank=rank, dtype=HALF).on(gpu).leaves()
    with torch.no_grad():
        leaves["down_weight"][1, 2] = float("nan")  # type: ignore[index]
        _, residual = fastlift_kernels.adapter(**leaves, impl="triton")  # type: ignore[arg-type]
    assert residual.isnan().all()


def same(one: Results, other: Results) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_marks_say_why(request: pytest.FixtureRequest) -> None:
    """Here these tests are collected, and skipped with a reason."""
    marks = on_gpu("cuda:99")
    assert [mark.name for mark in marks] == ["gpu", "skipif"]
    assert marks[1].args == (True,)
    assert "GPU" in marks[1].kwargs["reason"]
