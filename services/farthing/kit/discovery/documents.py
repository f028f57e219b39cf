"""Configuration documents: JSON values by key, watched, validated before use, the last good version kept."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

from farthing.kit.discovery.registry import Unsubscribe
from farthing.kit.errors import FarthingError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Document:
    """One version of a document. A content of None (JSON null) retires the key."""

    key: str
    """<kind>/<name>, e.g. prices/current."""
    version: str
    """Changes with the content; opaque."""
    content: Any


Validate = Callable[[Document], object]
Receive = Callable[[Document], None]


class DocumentSource(Protocol):
    """Where configuration comes from. Absence never removes a document that was good; JSON null does."""

    async def get(self, key: str) -> Document | None:
        """The last good version; None when there is none or it was retired. Waits for the first answer, 5 s at most."""
        ...

    def subscribe(
        self, prefix: str, receive: Receive, *, validate: Validate | None = None
    ) -> Unsubscribe:
        """Receive every key that starts with `prefix`: what is known at once, then each new version.

        A version that `validate` refuses (FarthingError, ValueError, KeyError or TypeError) is logged and listed in
        `rejected`; the last good one stays. Needs a running event loop.
        """
        ...

    @property
    def rejected(self) -> Mapping[str, str]:
        """What is wrong with the newest version, by key, where something is."""
        ...

    async def close(self) -> None:
        """Stop watching."""
        ...


@dataclass(slots=True, eq=False)
class _Subscription:
    prefix: str
    receive: Receive
    validate: Validate | None


class DocumentBoard:
    """Last good documents and who wants to hear of them; sources put what they read onto it."""

    def __init__(self) -> None:
        self._accepted: dict[str, Document] = {}
        self._offered: dict[str, str] = {}
        self._rejected: dict[str, str] = {}
        self._subscriptions: list[_Subscription] = []
        self.ready = asyncio.Event()

    @property
    def accepted(self) -> Mapping[str, Document]:
        """The last good versions by key, retired ones included."""
        return MappingProxyType(self._accepted)

    @property
    def rejected(self) -> Mapping[str, str]:
        """See DocumentSource."""
        return MappingProxyType(self._rejected)

    def find(self, key: str) -> Document | None:
        """The last good version, None when retired or unknown."""
        document = self._accepted.get(key)
        return None if document is None or document.content is None else document

    def subscribe(
        self, prefix: str, receive: Receive, validate: Validate | None
    ) -> Unsubscribe:
        """See DocumentSource."""
        subscription = _Subscription(prefix, receive, validate)
        self._subscriptions.append(subscription)
        for document in tuple(self._accepted.values()):
            if document.key.startswith(prefix) and self._passes(document, (subscription,)):
                receive(document)
        return lambda: self._subscriptions.remove(subscription)

    def offer(self, documents: Iterable[Document]) -> bool:
        """Take what was read; True if any good version is new. Known versions are skipped."""
        changed = False
        for document in documents:
            if self._offered.get(document.key) == document.version:
                continue
            self._offered[document.key] = document.version
            concerned = [
                item for item in self._subscriptions if document.key.startswith(item.prefix)
            ]
            if not self._passes(document, concerned):
                continue
            self._rejected.pop(document.key, None)
            self._accepted[document.key] = document
            changed = True
            for item in concerned:
                item.receive(document)
        self.ready.set()
        return changed

    def reject(self, key: str, version: str, problem: str) -> None:
        """Note a version that cannot even be read."""
        if self._offered.get(key) != version:
            self._offered[key] = version
            self._rejected[key] = problem
            _log.warning("document %s: keeping the last good version: %s", key, problem)

    def _passes(self, document: Document, subscriptions: Iterable[_Subscription]) -> bool:
        if document.content is None:
            return True
        for item in subscriptions:
            if item.validate is None:
                continue
            try:
                item.validate(document)
            except (FarthingError, ValueError, KeyError, TypeError) as error:
                problem = f"{type(error).__name__}: {error}"
                self._rejected[document.key] = problem
                _log.warning(
                    "document %s version %s refused, keeping the last good one: %s",
                    document.key,
                    document.version,
                    problem,
                )
                return False
        return True
