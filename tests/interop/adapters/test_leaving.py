"""Adapted models leave for other programs: exported, traced, quantised, each run by the program that reads it."""

from __future__ import annotations

import copy
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from interop.adapters.models import build, images, output, randomise
from torch import Tensor, nn

import fastlift
import fastlift_kernels

NAMES = ["open_clip", "timm_scaled", "clip_vision", "vit_classifier", "dinov2"]


class Outputs(nn.Module):
    """images -> the one tensor that counts."""

    def __init__(self, name: str, tuner: Any = "adaptformer") -> None:
        super().__init__()
        self.model = build(name)
        self.trained = fastlift.add_adapters(self.model, tuner, rank=4)
        randomise(self.trained)

    def forward(self, images: Tensor) -> Tensor:
        return output(self.model, images)


# Reads a file with the packages that it is for alone.
ALONE = """
import sys
class Never:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("fastlift", "fastlift_kernels", "timm", "open_clip", "transformers"):
            raise ImportError("not here: " + name)
sys.meta_path.insert(0, Never())
import numpy as np
kind, file, given, out = sys.argv[1:]
x = np.load(given)
if kind == "onnx":
    import onnxruntime
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    y = session.run(None, {session.get_inputs()[0].name: x})[0]
else:
    import torch
    module = torch.export.load(file).module() if kind == "pt2" else torch.jit.load(file)
    y = module(torch.from_numpy(x)).detach().numpy()
np.save(out, y)
"""


def read_alone(kind: str, file: Path, x: Tensor) -> Tensor:
    """What a file gives for images, in a process that cannot import fastlift."""
    given, out = file.with_name("x.npy"), file.with_name("y.npy")
    np.save(given, x.numpy())
    arguments = [kind, *map(str, (file, given, out))]
    done = subprocess.run([sys.executable, "-c", ALONE, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return torch.from_numpy(np.load(out))


@pytest.mark.parametrize("name", NAMES)
def test_exported_with_any_batch(name: str, tmp_path: Path) -> None:
    model = Outputs(name).eval()
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(model, (images(),), dynamic_shapes={"images": {0: batch}})
    own = [node for node in program.graph.nodes if "fastlift_kernels" in str(node.target)]
    assert not own, "the program needs fastlift's ops"
    torch.export.save(program, tmp_path / "model.pt2")
    torch.testing.assert_close(
        read_alone("pt2", tmp_path / "model.pt2", images(3)), model(images(3)).detach(), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("name", ["open_clip", "timm"])
def test_onnx_and_its_quantised_form(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    onnx, quantization = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime.quantization")
    model = Outputs(name).eval()
    wanted = model(images(3)).detach()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (images(),), tmp_path / "model.onnx", dynamic_shapes={"images": {0: "batch"}}, verbose=False
        )
    torch.testing.assert_close(read_alone("onnx", tmp_path / "model.onnx", images(3)), wanted, rtol=1e-4, atol=1e-4)
    exported = onnx.load(tmp_path / "model.onnx")
    # torch 2.9 keeps shapes from before weights were transposed, also for models without adapters.
    exported.graph.ClearField("value_info")
    # onnxruntime 1.23 has no product of convolutions in int8.
    quantization.quantize_dynamic(exported, tmp_path / "int8.onnx", op_types_to_quantize=["MatMul", "Gemm"])
    nodes = onnx.load(tmp_path / "int8.onnx").graph.node
    assert sum(node.op_type == "MatMulInteger" for node in nodes) >= 3 * 4, "products in fp32 were left"
    got = read_alone("onnx", tmp_path / "int8.onnx", images(3))
    assert 0 < (got - wanted).abs().max() < 0.1 * (wanted.max() - wanted.min())


def test_traced(tmp_path: Path) -> None:
    model = Outputs("timm").eval()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(model, images()), str(tmp_path / "model.torchscript"))
        wanted = model(images(3))
    got = read_alone("torchscript", tmp_path / "model.torchscript", images(3))
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def close_but_rounded(got: Tensor, wanted: Tensor) -> None:
    assert 0 < (got - wanted).abs().max() < 0.1 * (wanted.max() - wanted.min())


@pytest.mark.parametrize("tuner", ["adaptformer", "adapter"])
@pytest.mark.parametrize("name", ["open_clip", "timm", "clip_vision"])
def test_torchs_dynamic_quantisation(name: str, tuner: str) -> None:
    model = Outputs(name, tuner).eval()
    wanted = model(images()).detach()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it moves to torchao
        quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    bottlenecks = [part.down_proj for part in quantised.modules() if hasattr(part, "down_proj")]
    assert bottlenecks
    assert not any(type(down) is nn.Linear for down in bottlenecks)
    close_but_rounded(quantised(images()).detach(), wanted)
    torch.testing.assert_close(model(images()).detach(), wanted)


@pytest.mark.parametrize("tuner", ["adaptformer", "adapter"])
def test_torchao(tuner: str) -> None:
    """Its weights are tensors of a class of its own, whose memory no kernel can read."""
    quantization = pytest.importorskip("torchao.quantization")
    model = Outputs("timm", tuner).eval()
    wanted = model(images()).detach()
    for config in (quantization.Int8WeightOnlyConfig(), quantization.Int8DynamicActivationInt8WeightConfig()):
        quantised = copy.deepcopy(model)
        quantization.quantize_(quantised, config)
        close_but_rounded(quantised(images()).detach(), wanted)


def test_a_context_makes_every_op_plain() -> None:
    """For programs that hook PyTorch's own ops, and for torch.func, whose transforms the ops refuse."""
    model = Outputs("timm").eval()
    x = images()
    with fastlift_kernels.plain():
        got = torch.func.vmap(lambda image: model(image[None])[0])(x)
    torch.testing.assert_close(got, model(x), rtol=1e-4, atol=1e-4)
