"""Trained runs as files that serve without fastlift: ONNX and torch.export."""

from fastlift.interop.export.files import Exported, export_model
from fastlift.interop.export.serving import serving_model

__all__ = ["Exported", "export_model", "serving_model"]
