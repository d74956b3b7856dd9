"""What all formats of a model are made from: the model, its program, and its ONNX graph, each made once."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fastlift.errors import UserError
from fastlift.interop.export.serving import ServingModel

Proto = Any  # onnx.ModelProto
_LARGEST = 2**31 - 2**20  # bytes of one protobuf, with room for the graph


class Source:
    """A served model, images [2, ..] to trace it with, and the version of ONNX's operators."""

    def __init__(self, serving: ServingModel, images: Tensor, opset: int) -> None:
        self.serving, self.images, self.opset = serving, images, opset

    @cached_property
    def program(self) -> torch.export.ExportedProgram:
        """The model as ``torch.export`` has it, for any number of images."""
        batch = torch.export.Dim("batch", min=1)
        program = torch.export.export(self.serving, (self.images,), dynamic_shapes={"images": {0: batch}})
        graph = (node for node in program.graph.nodes if node.op != "placeholder")
        if own := sorted({str(node.target) for node in graph if "fastlift" in str(node.target)}):
            raise RuntimeError(f"the exported graph still has fastlift's own ops: {', '.join(own)}")
        return program

    @cached_property
    def onnx(self) -> Proto:
        """The model as ONNX in fp32, whose first dimension is called ``batch``.

        Raises:
            UserError: a model that is too large for one file.
        """
        size = sum(tensor.numel() * tensor.element_size() for tensor in self.program.state_dict.values())
        if size > _LARGEST:
            raise UserError(
                f"this model has {size / 2**30:.1f} GiB of weights, and an ONNX file holds 2: use --format pt2",
                exit_code=1,
            )
        with quiet():
            exported = torch.onnx.export(
                self.program,
                (self.images,),
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes={"images": {0: "batch"}},
                opset_version=self.opset,
                verbose=False,
            )
        assert exported is not None
        return exported.model_proto


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings that exporters and quantisers make about their own steps."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
