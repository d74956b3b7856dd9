"""Trained runs as files that serve without fastlift: ONNX, torch.export, AOTInductor packages and TorchScript."""

from fastlift.interop.export.files import Crops, Exported, export_formats, export_model, places
from fastlift.interop.export.formats import FORMATS, Format
from fastlift.interop.export.serving import serving_model

__all__ = ["FORMATS", "Crops", "Exported", "Format", "export_formats", "export_model", "places", "serving_model"]
