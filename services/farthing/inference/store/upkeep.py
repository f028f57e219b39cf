"""Removes what is not wanted in a store, and says how much room that gave."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from farthing.inference.core.residency import Candidate, plan_residency
from farthing.inference.store.contents import Contents
from farthing.inference.store.files import report_disk_errors
from farthing.inference.store.holds import is_held
from farthing.inference.store.space import freed_bytes, newest_change_s, used_bytes
from farthing.inference.store.workplaces import discard, is_abandoned
from farthing.kit.errors import FailedPrecondition

_DOWNLOADS = "fetch-"


@dataclass(frozen=True, slots=True)
class Freed:
    """What was removed, in words, and how many bytes that gave back."""

    what: tuple[str, ...]
    freed_bytes: int


@dataclass(frozen=True, slots=True)
class GcWishes:
    """What to collect. Unfinished downloads go when untouched for `unfinished_age_s`; None leaves them all.

    With `limit_bytes` named models leave too, the least recently used first, until the rest is no larger; never those
    of `keep`, nor those that a running service holds. `dry_run` removes nothing and says what would be.
    """

    unfinished_age_s: float | None = 7 * 86_400.0
    limit_bytes: int | None = None
    keep: tuple[str, ...] = ()
    dry_run: bool = False


class Upkeep:
    """Works on one store, under its lock; what takes long, deleting, comes after."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents

    def remove(self, name: str, *, force: bool = False) -> Freed:
        """Removes a name, and the model's files when no other name needs them.

        NotFound lists the names; FailedPrecondition when a running service holds the model, unless `force`.
        """
        contents = self._contents
        with contents.lock():
            digest = self._digest_of(name)
            others = [n for n, d in contents.pointers().items() if d == digest and n != name]
            last = bool(digest) and not others
            if last and not force and is_held(contents, digest):
                raise FailedPrecondition(
                    f"{name} is in use by a running service; stop it first, or force it: the service then goes on with "
                    "the open files until it ends",
                    reason="MODEL_IN_USE",
                    metadata={"model": name, "digest": digest},
                )
            self._forget_names([name])
            freed, trash = self._take_out(_folders(contents, digest) if last else [])
        _delete(trash)
        return Freed((name,), freed)

    def collect(self, wishes: GcWishes, now_s: float) -> Freed:
        """Removes what no name needs, what killed processes left, old unfinished downloads, and by wish more models."""
        contents = self._contents
        with contents.lock():
            found = dict(self._leftovers(wishes, now_s))
            named = set(contents.pointers().values())
            for digest in contents.list_digests():
                if digest not in named and not is_held(contents, digest):
                    for folder in _folders(contents, digest):
                        found[folder] = f"unnamed model {digest[:12]}…"
            what = list(dict.fromkeys(found.values()))
            if wishes.limit_bytes is not None:
                leaving = self._choose_leaving(wishes.limit_bytes, wishes.keep, set(found))
                what += [f"model {name}" for names in leaving.values() for name in names]
                found |= {f: "" for digest in leaving for f in _folders(contents, digest)}
                if not wishes.dry_run:
                    self._forget_names(name for names in leaving.values() for name in names)
            if wishes.dry_run:
                return Freed(tuple(what), freed_bytes(found))
            self._sweep()
            freed, trash = self._take_out(found)
        _delete(trash)
        return Freed(tuple(what), freed)

    def evict(self, limit_bytes: int) -> list[str]:
        """Removes least recently used models until the store is no larger; their names. For holders of the lock."""
        contents = self._contents
        leaving = self._choose_leaving(limit_bytes, (), set())
        names = [name for owners in leaving.values() for name in owners]
        self._forget_names(names)
        _, trash = self._take_out(f for digest in leaving for f in _folders(contents, digest))
        _delete(trash)
        return names

    def used_bytes(self) -> int:
        """What all stored models take, shared files once."""
        return used_bytes([self._contents.artefacts])

    def _digest_of(self, name: str) -> str:
        try:
            return self._contents.digest_of(name)
        except FailedPrecondition:  # a name that nobody can read
            return ""

    def _forget_names(self, names: Iterable[str]) -> None:
        with report_disk_errors(self._contents.names):
            for name in names:
                self._contents.pointer(name).unlink(missing_ok=True)

    def _leftovers(self, wishes: GcWishes, now_s: float) -> Iterator[tuple[Path, str]]:
        contents = self._contents
        for folder in sorted(contents.incoming.glob("*")):
            if not folder.is_dir() or not is_abandoned(folder):
                continue
            if not folder.name.startswith(_DOWNLOADS):
                yield folder, f"leftover {folder.name}"
            elif (
                wishes.unfinished_age_s is not None
                and now_s - newest_change_s(folder) >= wishes.unfinished_age_s
            ):
                yield folder, f"unfinished download {folder.name}"
        present = set(contents.list_digests())
        for folder in sorted(contents.answers.glob("*")):
            if folder.is_dir() and folder.name not in present:
                yield folder, f"answers of removed model {folder.name[:12]}…"

    def _sweep(self) -> None:
        """Removes what killed processes left of cards and names, and marks of models that are gone."""
        contents = self._contents
        for folder in (contents.names, *(contents.folder(d) for d in contents.list_digests())):
            for unfinished in folder.glob(".*.json.*"):
                unfinished.unlink(missing_ok=True)
        present = set(contents.list_digests())
        for hold in contents.holds.glob("*"):
            if hold.name not in present and not is_held(contents, hold.name):
                hold.unlink(missing_ok=True)

    def _choose_leaving(
        self, limit_bytes: int, keep: Collection[str], gone: set[Path]
    ) -> Mapping[str, list[str]]:
        """Digests with their names, in the order in which they leave.

        Shared files make what a model takes and what its removal gives differ, so it is planned anew after each.
        """
        contents = self._contents
        leaving: dict[str, list[str]] = {}
        while True:
            rest = [
                folder
                for digest in contents.list_digests()
                if digest not in leaving and (folder := contents.folder(digest)) not in gone
            ]
            excess_bytes = used_bytes(rest) - limit_bytes
            if excess_bytes <= 0:
                return leaving
            owners: dict[str, list[str]] = {}
            for name, digest in contents.pointers().items():
                if digest not in leaving:
                    owners.setdefault(digest, []).append(name)
            candidates = [
                self._candidate(digest, names, keep) for digest, names in owners.items()
            ]
            total_bytes = sum(candidate.size_bytes for candidate in candidates)
            plan = plan_residency(candidates, max(total_bytes - excess_bytes, 0))
            if not plan.unload:
                return leaving
            leaving[plan.unload[0]] = owners[plan.unload[0]]

    def _candidate(self, digest: str, names: list[str], keep: Collection[str]) -> Candidate:
        contents = self._contents
        return Candidate(
            name=digest,
            size_bytes=used_bytes([contents.folder(digest)]),
            last_used_s=max(_last_used_s(contents.pointer(name)) for name in names),
            loaded=True,
            pinned=not set(names).isdisjoint(keep),
            busy=is_held(contents, digest),
        )

    def _take_out(self, folders: Iterable[Path]) -> tuple[int, list[Path]]:
        """Takes folders out of their places; what deleting them frees, and what to delete."""
        present = [folder for folder in folders if folder.exists()]
        freed, trash = freed_bytes(present), list[Path]()
        with report_disk_errors(self._contents.incoming):
            for folder in present:
                with contextlib.suppress(
                    FileNotFoundError
                ):  # another process deletes it already
                    trash.append(discard(self._contents, folder))
        return freed, trash


def _folders(contents: Contents, digest: str) -> list[Path]:
    return [contents.folder(digest), contents.answers / digest]


def _last_used_s(pointer: Path) -> float:
    try:
        return pointer.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _delete(folders: Iterable[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
