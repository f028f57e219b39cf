"""Fetches a model from a hub: huggingface_hub says what there is, our own downloads bring it and go on after breaks."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from farthing.inference.store.files import AddProgress, ProgressCallback
from farthing.inference.store.http_fetch import Download, Downloaded
from farthing.inference.store.hub_files import HubFile, HubId, choose_files
from farthing.inference.store.plain_paths import place_inside
from farthing.kit.errors import (
    FailedPrecondition,
    FarthingError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unavailable,
)

Fetch = Callable[[Download, ProgressCallback], Downloaded]
"""Brings one file."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """Where a hub model was fetched to, and exactly what it is: the revision is a commit id.

    `hashes` has the sha256 of every file by its path, `licence` what the hub says of it.
    """

    main: Path
    repository: str
    revision: str
    hashes: dict[str, str]
    licence: str


class Hub:
    """A model hub. `endpoint` empty takes huggingface_hub's own (HF_ENDPOINT, else the public hub)."""

    def __init__(self, endpoint: str = "") -> None:
        self._endpoint = endpoint or None

    def fetch(
        self, hub_id: HubId, folder: Path, fetch: Fetch, progress: ProgressCallback
    ) -> Fetched:
        """Downloads the model's files under `folder` and compares every hash that the hub publishes.

        NotFound, PermissionDenied, Unavailable (no connection: try again, it resumes), InvalidArgument (the id is
        not decisive, or a file came out other than published), FailedPrecondition (extra not installed).
        """
        library = _load_library()
        try:
            info = library.HfApi(endpoint=self._endpoint).model_info(
                hub_id.repository, revision=hub_id.revision or None, files_metadata=True
            )
            headers = library.utils.build_hf_headers()
        except Exception as error:
            raise _translate(library, hub_id, error) from error
        chosen = choose_files(hub_id, [_hub_file(sibling) for sibling in info.siblings or []])
        total_bytes = sum(file.size_bytes for file in chosen)
        done_bytes = 0
        paths, hashes = [], dict[str, str]()
        for file in chosen:

            def report(one: AddProgress, before_bytes: int = done_bytes) -> None:
                if one.stage == "download":
                    one = replace(
                        one, done_bytes=before_bytes + one.done_bytes, total_bytes=total_bytes
                    )
                progress(one)

            path = _place(hub_id, folder / "model", file.path)
            url = library.hf_hub_url(
                hub_id.repository, file.path, revision=info.sha, endpoint=self._endpoint
            )
            download = Download(url, path, file.path, file.sha256, file.size_bytes, headers)
            try:
                done = fetch(download, report)
            except PermissionDenied as error:
                raise _gated(hub_id) from error
            paths.append(path)
            hashes[path.relative_to(folder / "model").as_posix()] = done.sha256
            done_bytes += done.size_bytes
        return Fetched(paths[0], hub_id.repository, str(info.sha), hashes, _licence_of(info))


def _load_library() -> ModuleType:
    # Model files are what we came for; usage statistics are not part of the bargain.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import huggingface_hub
    except ImportError:
        raise FailedPrecondition(
            "fetching from a model hub needs huggingface_hub: pip install 'farthing[hub]'",
            reason="EXTRA_MISSING",
            metadata={"extra": "hub"},
        ) from None
    return huggingface_hub


def _hub_file(sibling: Any) -> HubFile:
    lfs = sibling.lfs
    return HubFile(sibling.rfilename, sibling.size or 0, lfs.sha256 if lfs else "")


def _place(hub_id: HubId, folder: Path, name: str) -> Path:
    try:
        return place_inside(folder, name)
    except ValueError as error:
        raise InvalidArgument(
            f"{hub_id} lists a file that cannot be fetched: {error}",
            field="source",
            reason="MODEL_FILE_NOT_FOUND",
            metadata={"source": str(hub_id)},
        ) from None


def _licence_of(info: Any) -> str:
    card = getattr(info, "card_data", None)
    licence = card.get("license") if card is not None else None
    return licence[:200] if isinstance(licence, str) else ""


def _gated(hub_id: HubId) -> PermissionDenied:
    return PermissionDenied(
        f"{hub_id.repository} asks for its licence to be accepted; accept it on the hub, then set HF_TOKEN",
        reason="MODEL_GATED",
        metadata={"source": str(hub_id)},
    )


def _translate(library: ModuleType, hub_id: HubId, error: Exception) -> FarthingError:
    errors = library.errors
    metadata = {"source": str(hub_id)}
    if isinstance(error, errors.GatedRepoError):
        return _gated(hub_id)
    if isinstance(error, errors.RevisionNotFoundError):
        return NotFound(
            f"{hub_id.repository} has no revision {hub_id.revision!r}; check it on the hub",
            reason="MODEL_REVISION_NOT_FOUND",
            metadata=metadata,
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return NotFound(
            f"there is no model {hub_id.repository} on the hub, nor a local path of that name; check the "
            "spelling, and set HF_TOKEN when it is private",
            reason="MODEL_NOT_FOUND",
            metadata=metadata,
        )
    if isinstance(error, errors.HFValidationError):
        return InvalidArgument(
            f"{hub_id} is not a hub id: {error}", field="source", metadata=metadata
        )
    return Unavailable(
        f"the model hub did not deliver {hub_id}: {error or type(error).__name__}; check the connection and "
        "run the same command again, it goes on where it stopped",
        reason="HUB_UNAVAILABLE",
        metadata=metadata,
    )
