"""Keeps answers inside a JSON schema, with llguidance: the same for every engine. Imports llguidance when used."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from farthing.inference.batch_backend import Logits, TextCodec
from farthing.inference.model import ModelDescription
from farthing.kit.errors import FailedPrecondition, InvalidArgument

FIELD = "input.response_format.json_schema"
# Room to breathe, and an end to it: a model that likes white space would otherwise never come to the point.
_WHITE_SPACE = r"[ \n\t]{0,16}"
# One caller's schema must not stall the others: states and items a step beyond these are refused, not computed.
_MOST_GRAMMAR_SIZE = 200_000
_MOST_STEP_ITEMS = 50_000


class SchemaCompiler:
    """Makes constraints for one model. Any thread may call."""

    def __init__(self, model: ModelDescription, codec: TextCodec) -> None:
        """FailedPrecondition when llguidance is not installed."""
        try:
            import llguidance
            import llguidance.numpy
        except ImportError as error:
            raise FailedPrecondition(
                f"JSON schemas need llguidance ({error}): pip install llguidance",
                reason="EXTRA_MISSING",
                metadata={"extra": "llguidance"},
            ) from None
        self._library = llguidance
        self._eos_ids = sorted(model.eos_ids)
        self._vocab_size = model.vocab_size
        vocabulary = _Vocabulary(
            [codec.token_bytes(token) for token in range(model.vocab_size)],
            self._eos_ids[0],
            lambda text: codec.tokenize(text, special=False),
        )
        wrapper = llguidance.TokenizerWrapper(vocabulary)
        self._tokenizer = llguidance.LLTokenizer(wrapper, eos_token=self._eos_ids)
        self._limits = llguidance.LLParserLimits(
            max_grammar_size=_MOST_GRAMMAR_SIZE, step_max_items=_MOST_STEP_ITEMS
        )

    def constrain(self, json_schema: str) -> SchemaConstraint:
        """A constraint to JSON that the schema accepts. InvalidArgument for a bad schema."""
        try:
            schema = json.loads(json_schema)
        except (ValueError, RecursionError) as error:
            raise _bad_schema(f"it is not JSON: {error}") from None
        if not isinstance(schema, dict):
            raise _bad_schema("it is not a JSON object")
        matcher_class = self._library.LLMatcher
        try:
            grammar = matcher_class.grammar_from_json_schema(
                json_schema, defaults={"whitespace_pattern": _WHITE_SPACE}
            )
            matcher = matcher_class(self._tokenizer, grammar, log_level=0, limits=self._limits)
        except (
            Exception
        ) as error:  # the library raises whatever comes; any of it means this schema
            raise _bad_schema(str(error)) from None
        if matcher.is_error():
            raise _bad_schema(matcher.get_error())
        return SchemaConstraint(self._library.numpy, matcher, self._vocab_size, self._eos_ids)


class SchemaConstraint:
    """Implements Constraint."""

    def __init__(
        self, library: Any, matcher: Any, vocab_size: int, eos_ids: Sequence[int]
    ) -> None:
        self._library, self._matcher, self._eos_ids = library, matcher, list(eos_ids)
        self._vocab_size = vocab_size
        self._words: NDArray[np.int32] = library.allocate_token_bitmask(1, vocab_size)

    def mask(self, logits: Logits) -> None:
        """See Constraint."""
        matcher = self._matcher
        allowed = np.zeros(self._vocab_size, np.bool_)
        if matcher.is_stopped():
            allowed[self._eos_ids] = True
        else:
            self._library.fill_next_token_bitmask(matcher, self._words, 0)
            if matcher.is_error():
                raise _bad_schema(matcher.get_error())
            bits = np.unpackbits(self._words.view(np.uint8), bitorder="little")
            allowed[:] = bits[: self._vocab_size]
        logits[~allowed] = -np.inf

    def accept(self, token: int) -> None:
        """See Constraint."""
        self._matcher.consume_token(token)

    def close(self) -> None:
        """See Constraint."""
        self._matcher = None


class _Vocabulary:
    """A tokenizer as llguidance takes it: control tokens begin with a byte that no text has."""

    bos_token_id = None

    def __init__(
        self, pieces: Sequence[bytes], eos_id: int, tokenize: Callable[[str], list[int]]
    ) -> None:
        self.eos_token_id = eos_id
        self.special_token_ids = [token for token, piece in enumerate(pieces) if not piece]
        self.tokens = [piece or b"\xff<%d>" % token for token, piece in enumerate(pieces)]
        self._tokenize = tokenize

    def __call__(self, text: str | bytes) -> list[int]:
        if isinstance(text, bytes):
            text = text.decode()
        return self._tokenize(text)


def _bad_schema(problem: str) -> InvalidArgument:
    return InvalidArgument(
        f"{FIELD} cannot be used: {problem}. Correct or simplify the schema.",
        field=FIELD,
        reason="SCHEMA_INVALID",
    )
