"""The GPU graph, checked on machines without a GPU: it is serialized, and the same function runs with ``device="cpu"``.

What serializing catches: operators or arguments that do not exist, CPU operators fed from the GPU, argument inputs that
may not be tensors. What running on the CPU catches: wrong geometry, mirroring, order and normalisation. What neither can
catch: an operator without a GPU kernel for these types, memory, speed, and whether nvJPEG's pixels and the GPU's resize
are those of the CPU.
"""

from typing import Any, Literal

import numpy as np
import pytest
import torch
from loaders import MEAN, NEEDS_DALI, STD, by_crops, make_loader

from fastlift.data.index.index import ImageIndex
from fastlift.data.index.replacements import Replacements
from fastlift.data.loading.dali.feed import Feed
from fastlift.data.loading.dali.graph import DaliDecoding, GraphSpec, build_pipeline
from fastlift.data.loading.looks import Looks
from fastlift.data.sampling.crops import EvalCrops, TrainCrops
from fastlift.data.sampling.stream import Stream

pytestmark = NEEDS_DALI


def serialized(crops: TrainCrops | EvalCrops, device: Literal["cpu", "gpu"], **changes: Any) -> bytes:
    spec = GraphSpec(crops, (0.5,) * 3, (0.2,) * 3, device, **{"half": False, **changes})
    pipeline = build_pipeline(spec, lambda info: (), batch_size=4, workers=1, device_id=None, prefetch=2)
    return pipeline.serialize()


@pytest.mark.parametrize("half", [False, True])
@by_crops
def test_the_gpu_graph_can_be_serialized(crops: TrainCrops | EvalCrops, half: bool) -> None:
    graph = serialized(crops, "gpu", half=half)
    decoder = b"image_slice" if isinstance(crops, TrainCrops) else b"decoders__Image"
    assert decoder.lower() in graph.lower()
    assert b"mixed" in graph
    assert b"mixed" not in serialized(crops, "cpu", half=half)


def test_serializing_does_catch_a_wrong_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check itself can fail: a CPU resize behind a GPU decoder."""
    from nvidia.dali import fn

    resize: Any = fn.resize
    monkeypatch.setattr(fn, "resize", lambda *inputs, **options: resize(*inputs, device="cpu", **options))
    with pytest.raises(RuntimeError, match=r"gpu|GPU"):
        serialized(TrainCrops(32), "gpu")


def test_serializing_does_catch_an_unknown_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    from nvidia.dali import fn

    resize: Any = fn.resize
    monkeypatch.setattr(fn, "resize", lambda *inputs, **options: resize(*inputs, sharpness=1.0, **options))
    with pytest.raises(KeyError, match="sharpness"):
        serialized(TrainCrops(32), "gpu")


def test_the_hardware_decoders_share_reaches_the_graph() -> None:
    graphs = [serialized(TrainCrops(32), "gpu", decoding=DaliDecoding(hw_load=load)) for load in (0.65, 1.0)]
    assert all(b"hw_decoder_load" in graph for graph in graphs)
    assert graphs[0] != graphs[1]
    assert b"hw_decoder_load" not in serialized(TrainCrops(32), "cpu", decoding=DaliDecoding(hw_load=1.0))


def differences(index: ImageIndex, crops: TrainCrops | EvalCrops, batch_size: int) -> np.ndarray:
    """Grey levels between the crops of the whole graph, run on the CPU, and those of the torchvision backend."""
    stream, replacements = Stream(index, crops, batch_size, seed=1), Replacements(index, "stop", None)
    spec = GraphSpec(crops, MEAN, STD, "cpu", half=False)
    feed = Feed(stream, spec, Looks(index), workers=1, ahead=1)
    pipeline = build_pipeline(spec, feed, batch_size=batch_size, workers=1, device_id=None, prefetch=2)
    feed.start(stream.step(stream.order(2), 2, number, replacements) for number in range(stream.steps_per_epoch))
    theirs = make_loader(index, crops, batch_size=batch_size, cache_bytes=0)
    found = []
    for batch in theirs.epoch(2):
        (made,) = pipeline.run()
        assert not feed.done().ours
        images = torch.from_dlpack(made.as_tensor())
        assert images.shape == batch.images.shape
        found.append(((images - batch.images) * 255 * torch.tensor(STD).view(3, 1, 1)).abs().numpy())
    feed.close()
    return np.concatenate(found)


@by_crops
def test_the_graphs_crops_are_the_torchvision_backends(crops: TrainCrops | EvalCrops, image_files: Any) -> None:
    """At most 3 levels apart on images with noise in every pixel: DALI rounds once, torch after each of two passes."""
    found = differences(image_files.fill(each=4).load().train, crops, batch_size=5)
    assert found.mean() < 0.35
    assert found.max() < 3


@pytest.mark.parametrize("crops", [TrainCrops(224), EvalCrops(224, crops="five")], ids=["train", "five"])
def test_the_graphs_crops_of_real_images(crops: TrainCrops | EvalCrops, real_images: ImageIndex) -> None:
    """Mean absolute difference at most 0.25 grey levels over 100 ImageNet files."""
    assert differences(real_images, crops, batch_size=25).mean() <= 0.25
