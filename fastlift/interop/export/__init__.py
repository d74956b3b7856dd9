"""Trained runs as files that serve without fastlift: ONNX and torch.export."""

from fastlift.interop.export.files import Crops, Exported, Format, export_model
from fastlift.interop.export.serving import serving_model

__all__ = ["Crops", "Exported", "Format", "export_model", "serving_model"]
