"""ONNX files: to fp16 and int8 by onnxruntime's own tools, and read by onnxruntime."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from fastlift.errors import UserError
from fastlift.interop.export.source import Proto, Source, quiet

_KEY = "fastlift"  # of the description in the metadata


def write(source: Source, path: Path, description: str) -> None:
    """In fp32."""
    _save(source.onnx, path, description)


def write_fp16(source: Source, path: Path, description: str) -> None:
    """Weights and products in fp16, which halves the file; images and logits stay in fp32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with quiet():
        model = convert_float_to_float16(_copy(source.onnx), keep_io_types=True)
    _save(model, path, description)


def write_int8(source: Source, path: Path, description: str) -> None:
    """Weights of the products in int8, a scale for each output; inputs are rounded while it runs, so nothing is calibrated."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory(dir=path.parent) as folder, quiet():
        prepared, rounded = Path(folder) / "prepared.onnx", Path(folder) / "rounded.onnx"
        onnx.save(source.onnx, str(prepared))
        quant_pre_process(str(prepared), str(prepared), skip_symbolic_shape=True)
        simplified = onnx.load(str(prepared))
        # They hold shapes from before weights were transposed; the quantiser infers them anew.
        simplified.graph.ClearField("value_info")
        quantize_dynamic(
            simplified,
            str(rounded),
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
        model = onnx.load(str(rounded))
    _save(model, path, description)


def _copy(model: Proto) -> Proto:
    copied = type(model)()
    copied.CopyFrom(model)
    return copied


def _save(model: Proto, path: Path, description: str) -> None:
    import onnx

    model = _copy(model)
    onnx.helper.set_model_props(model, {_KEY: description})
    onnx.save(model, str(path))


def read(path: Path, threads: int) -> Callable[[Tensor], Tensor]:
    """What onnxruntime computes on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of a class that onnxruntime does not name: an opset that it does not know, for one
        raise UserError(
            f"onnxruntime {onnxruntime.__version__} cannot read the ONNX file ({str(error)[:200]}); try a lower --opset",
            exit_code=1,
        ) from error
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])
