"""Adapters in place, inside other libraries' vision transformers: open_clip, timm and transformers."""

from fastlift.interop.adapters.attach import add_adapters, remove_adapters, tuner_parameters
from fastlift.interop.adapters.heads import load_classifier
from fastlift.interop.adapters.store import load_adapters, save_adapters

__all__ = ["add_adapters", "load_adapters", "load_classifier", "remove_adapters", "save_adapters", "tuner_parameters"]
