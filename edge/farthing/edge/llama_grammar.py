"""Keeps answers inside a JSON schema with llama.cpp's grammar sampler. Imports llama_cpp."""

from __future__ import annotations

import ctypes
import json
from typing import Any

import llama_cpp as llama
import numpy as np
from llama_cpp.llama_grammar import json_schema_to_gbnf

from farthing.edge.schema_limits import bad_schema, check_schema
from farthing.inference.backend import Logits

_CANDIDATE = np.dtype([("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])


class GrammarConstraint:
    """Implements Constraint."""

    def __init__(self, vocab: Any, vocab_size: int, json_schema: str) -> None:
        """Raises InvalidArgument when the schema has no grammar."""
        grammar = _schema_grammar(json_schema)
        self._sampler = llama.llama_sampler_init_grammar(vocab, grammar.encode(), b"root")
        if not self._sampler:
            raise bad_schema("llama.cpp cannot follow the grammar made of it")
        self._candidates = np.zeros(vocab_size, _CANDIDATE)
        self._candidates["id"] = np.arange(vocab_size)
        self._array = llama.llama_token_data_array(
            self._candidates.ctypes.data_as(llama.llama_token_data_p), vocab_size, -1, False
        )

    def mask(self, logits: Logits) -> None:
        """See Constraint."""
        self._candidates["logit"] = logits
        llama.llama_sampler_apply(self._sampler, ctypes.byref(self._array))
        logits[:] = self._candidates["logit"]

    def accept(self, token: int) -> None:
        """See Constraint."""
        llama.llama_sampler_accept(self._sampler, token)

    def close(self) -> None:
        """See Constraint."""
        if self._sampler:
            llama.llama_sampler_free(self._sampler)
            self._sampler = None


def _schema_grammar(json_schema: str) -> str:
    try:
        schema = json.loads(json_schema)
    except (ValueError, RecursionError) as error:
        raise bad_schema(f"it is not JSON: {error}") from error
    if not isinstance(schema, dict):
        raise bad_schema("it is not a JSON object")
    check_schema(schema)
    try:
        grammar: str = json_schema_to_gbnf(json_schema)
    except Exception as error:
        # The converter asserts and raises whatever comes; any of it means this schema.
        raise bad_schema(str(error) or type(error).__name__) from error
    return grammar
