"""Turns a decoder graph of ONNX into one whose keys and values stay in slots: what it finds, rewrites and proves."""

from __future__ import annotations
