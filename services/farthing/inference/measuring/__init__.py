"""Measures a served model on tasks with known answers: how often it is right, how fast, how like its original."""

from __future__ import annotations
