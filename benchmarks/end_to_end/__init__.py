"""Measurements of whole steps and whole commands."""
