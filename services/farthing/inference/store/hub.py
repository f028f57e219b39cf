"""Fetches a model from a model hub through huggingface_hub, resuming what an earlier try left."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from farthing.inference.store.files import (
    AddProgress,
    ProgressCallback,
    hash_file,
    require_room,
)
from farthing.inference.store.hub_files import HubFile, HubId, choose_files
from farthing.kit.errors import (
    FailedPrecondition,
    FarthingError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unavailable,
)


@dataclass(frozen=True, slots=True)
class Fetched:
    """Where a hub model was fetched to, and exactly what it is: the revision is a commit id."""

    folder: Path
    main: Path
    repository: str
    revision: str


class Hub:
    """A model hub. `endpoint` empty takes huggingface_hub's own (HF_ENDPOINT, else the public hub)."""

    def __init__(self, endpoint: str = "") -> None:
        self._endpoint = endpoint or None

    def fetch(self, hub_id: HubId, folder: Path, progress: ProgressCallback) -> Fetched:
        """Downloads the model's files under `folder` and compares every hash that the hub publishes.

        NotFound, PermissionDenied, Unavailable (no connection: try again, it resumes), InvalidArgument (the id is
        not decisive, or a file came out other than published), FailedPrecondition (extra not installed).
        """
        library = _load_library()
        try:
            return self._fetch(library, hub_id, folder, progress)
        except FarthingError:
            raise
        except Exception as error:
            raise _translate(library, hub_id, error) from error

    def _fetch(
        self, library: ModuleType, hub_id: HubId, folder: Path, progress: ProgressCallback
    ) -> Fetched:
        api = library.HfApi(endpoint=self._endpoint)
        info = api.model_info(
            hub_id.repository, revision=hub_id.revision or None, files_metadata=True
        )
        listing = [_hub_file(sibling) for sibling in info.siblings or []]
        chosen = choose_files(hub_id, listing)
        total_bytes = sum(f.size_bytes for f in chosen)
        require_room(folder, total_bytes)
        done_bytes = 0
        for file in chosen:

            def on_bytes(count: int, file: HubFile = file) -> None:
                nonlocal done_bytes
                done_bytes += count
                progress(
                    AddProgress(
                        "download", file.path, min(done_bytes, total_bytes), total_bytes
                    )
                )

            path = Path(
                library.hf_hub_download(
                    hub_id.repository,
                    file.path,
                    revision=info.sha,
                    local_dir=folder,
                    endpoint=self._endpoint,
                    tqdm_class=_reporting_bar(library, on_bytes),
                )
            )
            _compare(hub_id, file, path)
        return Fetched(folder, folder / chosen[0].path, hub_id.repository, str(info.sha))


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


def _compare(hub_id: HubId, file: HubFile, path: Path) -> None:
    size_bytes = path.stat().st_size
    if (file.size_bytes and size_bytes != file.size_bytes) or (
        file.sha256 and hash_file(path) != file.sha256
    ):
        path.unlink()
        raise InvalidArgument(
            f"{file.path} of {hub_id} came out other than the hub published it; fetch it again",
            field="source",
            reason="MODEL_HASH_MISMATCH",
            metadata={"source": str(hub_id), "path": file.path},
        )


def _reporting_bar(library: ModuleType, on_bytes: Callable[[int], None]) -> type[Any]:
    base: type[Any] = library.utils.tqdm

    class ReportingBar(base):  # type: ignore[misc]
        """Tells the store's progress callback instead of drawing."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> None:
            on_bytes(int(n or 0))

    return ReportingBar


def _translate(library: ModuleType, hub_id: HubId, error: Exception) -> FarthingError:
    errors = library.errors
    metadata = {"source": str(hub_id)}
    if isinstance(error, errors.GatedRepoError):
        return PermissionDenied(
            f"{hub_id.repository} asks for its licence to be accepted; accept it on the hub, then set HF_TOKEN",
            reason="MODEL_GATED",
            metadata=metadata,
        )
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
