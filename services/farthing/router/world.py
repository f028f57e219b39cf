"""The living side of a decision's world: instances, prices, policies and what answers have been like so far."""

from __future__ import annotations

import logging

from farthing.clients.instances.pool import InstancePool
from farthing.kit.discovery import Document, DocumentSource
from farthing.kit.errors import FailedPrecondition, InvalidArgument
from farthing.pricing import PriceBook
from farthing.router.core.decide import World
from farthing.router.core.policy import BUILT_IN, Policy, parse_policy

_log = logging.getLogger(__name__)

PRICES_KEY = "prices/current"
POLICIES_PREFIX = "policies/"
DEFAULT_POLICY = "balanced"
_LENGTH_WEIGHT = 0.1
_MOST_TASKS = 10_000  # a bound on memory: tasks are free text


class LiveWorld:
    """Gives a World at any moment; follows configuration documents. Use from one event loop."""

    def __init__(self, region: str, pool: InstancePool, documents: DocumentSource) -> None:
        self._region, self._pool, self._documents = region, pool, documents
        self._book: PriceBook | None = None
        self._policies: dict[str, Policy] = dict(BUILT_IN)
        self._output_tokens: dict[str, float] = {}

    def start(self) -> None:
        """Follow prices and policies from now on; a bad version is logged and the last good one kept."""
        self._documents.subscribe(
            PRICES_KEY, self._take_prices, validate=lambda doc: PriceBook.parse(doc.content)
        )
        self._documents.subscribe(
            POLICIES_PREFIX, self._take_policy, validate=lambda doc: _parse_policy(doc)
        )

    @property
    def book(self) -> PriceBook:
        """The price book in force. FailedPrecondition before there is one: nothing is served unpriced."""
        if self._book is None:
            raise FailedPrecondition(
                f"there is no price book; put one at {PRICES_KEY} (docs/reference/price-book.md)",
                reason="PRICE_BOOK_MISSING",
            )
        return self._book

    def policy(self, name: str) -> Policy:
        """A policy by name. InvalidArgument lists the ones there are."""
        policy = self._policies.get(name or DEFAULT_POLICY)
        if policy is None:
            raise InvalidArgument(
                f"constraints.policy {name!r} is unknown; use one of {', '.join(sorted(self._policies))}",
                field="constraints.policy",
            )
        return policy

    def snapshot(self) -> World:
        """The world at this moment."""
        return World(
            region=self._region,
            instances=self._pool.view(),
            book=self.book,
            in_flight=self._pool.in_flight,
            typical_output_tokens=self._output_tokens,
        )

    def learn_output(self, task: str, output_token_count: int) -> None:
        """Remember how long answers to a task are, for estimates."""
        known = self._output_tokens.get(task)
        if known is None and len(self._output_tokens) >= _MOST_TASKS:
            return
        self._output_tokens[task] = (
            float(output_token_count)
            if known is None
            else known + (output_token_count - known) * _LENGTH_WEIGHT
        )

    def _take_prices(self, document: Document) -> None:
        self._book = PriceBook.parse(document.content)
        _log.info("price book in force", extra={"price_version": self._book.version})

    def _take_policy(self, document: Document) -> None:
        name = document.key.removeprefix(POLICIES_PREFIX)
        if document.content is None:
            retired = BUILT_IN.get(name)
            if retired is None:
                self._policies.pop(name, None)
            else:
                self._policies[name] = retired
        else:
            self._policies[name] = _parse_policy(document)


def _parse_policy(document: Document) -> Policy:
    name = document.key.removeprefix(POLICIES_PREFIX)
    return parse_policy(name, {} if document.content is None else document.content)
