"""The GPU graph, checked on machines without a GPU by serializing it.

What this catches: operators or arguments that do not exist, CPU operators fed from the GPU, argument inputs that may
not be tensors. What it cannot catch: an operator without a GPU kernel for these types, wrong values, memory, speed, and
whether nvJPEG's pixels are those of the CPU decoder. Values are checked by the same function with ``device="cpu"``
(``test_loaders.py``).
"""

from typing import Any, Literal

import pytest

from fastlift.data.dali_graph import GraphSpec, build_pipeline
from fastlift.data.loader import dali_installed
from fastlift.data.views import EvalViews, TrainViews

pytestmark = pytest.mark.skipif(not dali_installed(), reason="no DALI")

ALL_VIEWS = [
    TrainViews(32),
    TrainViews(32, kind="minimalist"),
    EvalViews(32),
    EvalViews(32, crops="five"),
    EvalViews(32, crops="ten"),
    EvalViews(32, crops="random", n_random=3),
]


def serialized(views: TrainViews | EvalViews, device: Literal["cpu", "gpu"], **changes: Any) -> bytes:
    spec = GraphSpec(views, (0.5,) * 3, (0.2,) * 3, device, **{"half": False, "from_bytes": False, **changes})
    pipeline = build_pipeline(spec, lambda info: (), batch_size=4, workers=1, device_id=None, prefetch=2)
    return pipeline.serialize()


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("views", ALL_VIEWS, ids=lambda v: getattr(v, "kind", None) or v.crops)
def test_the_gpu_graph_can_be_serialized(views: TrainViews | EvalViews, half: bool) -> None:
    graph = serialized(views, "gpu", half=half)
    decoder = b"image_slice" if isinstance(views, TrainViews) else b"decoders__Image"
    assert decoder.lower() in graph.lower()
    assert b"mixed" in graph
    assert b"mixed" not in serialized(views, "cpu", half=half)


def test_bytes_come_in_without_a_file_reader() -> None:
    assert b"io__file__Read" in serialized(TrainViews(32), "gpu")
    assert b"io__file__Read" not in serialized(TrainViews(32), "gpu", from_bytes=True)


def test_serializing_does_catch_a_wrong_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check itself can fail: a CPU resize behind a GPU decoder."""
    from nvidia.dali import fn

    resize: Any = fn.resize
    monkeypatch.setattr(fn, "resize", lambda *inputs, **options: resize(*inputs, device="cpu", **options))
    with pytest.raises(RuntimeError, match=r"gpu|GPU"):
        serialized(TrainViews(32), "gpu")


def test_serializing_does_catch_an_unknown_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    from nvidia.dali import fn

    resize: Any = fn.resize
    monkeypatch.setattr(fn, "resize", lambda *inputs, **options: resize(*inputs, sharpness=1.0, **options))
    with pytest.raises(KeyError, match="sharpness"):
        serialized(TrainViews(32), "gpu")
