"""The whole recipe of the two demo models: tasks, tokenizer, training, export and measurement."""

from __future__ import annotations
