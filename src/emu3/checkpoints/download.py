"""Download a model repository from the Hugging Face hub into its cache: small files, then weights.

Cache layout, token, offline mode and progress bars are those of huggingface_hub, and
`snapshot_download` fetches the small files. Weight files are fetched here because huggingface_hub
2.4 deletes the partial file of an interrupted download: after a kill, a published shard of 4.7 GB
would start again from zero.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from emu3.checkpoints.safetensors_io import INDEX_FILE, SINGLE_FILE, abbreviate, weight_files
from emu3.errors import InputError

SMALL_FILES = ["*.json", "*.tiktoken", "*_vision_tokens.txt", "chat_template.*"]
SHA256_LENGTH = 64  # hex digits; the ETag of a large file is its SHA-256 hash
CACHE_ERRORS = frozenset({errno.EACCES, errno.EDQUOT, errno.ENOSPC, errno.EPERM, errno.EROFS})
"""File system errors that another cache folder would avoid."""


@dataclass(frozen=True)
class HubRepository:
    """A model repository on the hub, at a revision: a branch, a tag or a commit."""

    name: str
    revision: str | None = None

    def download_small_files(self) -> Path:
        """Download everything but the weights; returns the snapshot folder in the cache.

        Without a network connection, returns what the cache holds. Raises InputError if the
        repository is neither reachable nor cached.
        """
        import huggingface_hub

        with _one_line_errors(self):
            folder = huggingface_hub.snapshot_download(
                self.name, revision=self.revision, allow_patterns=SMALL_FILES, tqdm_class=_silent()
            )
        return Path(folder)

    def download_weights(self, folder: Path) -> None:
        """Download the weight files that a snapshot folder lacks.

        Needs no network connection if none is missing. An interrupted download is resumed. Raises
        InputError, naming the missing files, if they cannot be downloaded.
        """
        missing = _missing_weights(folder)
        # Sequential and in this thread, so that Ctrl-C stops at once and keeps the partial file.
        for number, file in enumerate(missing):
            with _one_line_errors(self, missing[number:]):
                self._download_file(file, folder)

    def _download_file(self, file: str, folder: Path) -> None:
        """Download one file to `blobs/` of the cache, where huggingface_hub looks for it."""
        import huggingface_hub
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import WeakFileLock, build_hf_headers

        commit, repository = folder.name, folder.parents[1]  # …/models--a--b/snapshots/COMMIT
        url = huggingface_hub.hf_hub_url(self.name, file, revision=commit)
        metadata = huggingface_hub.get_hf_file_metadata(url)
        if metadata.etag is not None and metadata.size is not None:
            blob = repository / "blobs" / metadata.etag
            partial = blob.with_name(f"{metadata.etag}.incomplete")
            # The lock of huggingface_hub: two processes must not append to one file.
            lock = repository.parent / ".locks" / repository.name / f"{metadata.etag}.lock"
            for parent in (blob.parent, lock.parent):
                parent.mkdir(parents=True, exist_ok=True)
            with WeakFileLock(lock):
                if not blob.exists():
                    with partial.open("ab") as target:
                        resume_size = target.tell()
                        http_get(
                            url,
                            target,
                            resume_size=resume_size,
                            headers=build_hf_headers(),
                            expected_size=metadata.size,
                            displayed_filename=file,
                        )
                    if resume_size:
                        _check_hash(partial, metadata.etag)
                    partial.replace(blob)
        huggingface_hub.hf_hub_download(self.name, file, revision=commit)  # links to the blob


def _missing_weights(folder: Path) -> list[str]:
    """The weight files of the index, or the single file, that are not in the folder."""
    files = [folder / SINGLE_FILE]
    if (folder / INDEX_FILE).exists():
        files = list(weight_files(folder))
    return [path.relative_to(folder).as_posix() for path in files if not path.exists()]


def _check_hash(partial: Path, etag: str) -> None:
    """Delete a resumed file and raise InputError if its SHA-256 hash is not the expected one."""
    if len(etag) != SHA256_LENGTH:
        return
    with partial.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != etag:
        partial.unlink()
        raise InputError(
            f"{partial.name}: the resumed file failed its SHA-256 check and was deleted; "
            "run the command again"
        )


def _silent() -> type:
    """A progress bar that is never shown: the small files take less than a second."""
    from huggingface_hub.utils import tqdm

    class Silent(tqdm):
        def __init__(self, *args: object, **options: object) -> None:
            super().__init__(*args, **{**options, "disable": True})

    return Silent


@contextmanager
def _one_line_errors(repository: HubRepository, missing: Sequence[str] = ()) -> Iterator[None]:
    """Turn errors of huggingface_hub into an InputError with one line that says what to do."""
    from huggingface_hub.errors import HTTPError  # of httpx or of requests

    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt("run the same command again to resume the download") from None
    except InputError:
        raise
    except (HTTPError, OSError, ValueError) as error:
        message = _refused(repository, error, missing) or _unreachable(repository, error, missing)
        raise InputError(message) from None


def _refused(repository: HubRepository, error: Exception, missing: Sequence[str]) -> str | None:
    """The message for an error that the user can fix; None for a connection error."""
    from huggingface_hub import constants, errors

    name, page = repository.name, f"{constants.ENDPOINT}/{repository.name}"
    if isinstance(error, errors.GatedRepoError):
        return f"{name} is gated: accept its licence on {page}, then run: hf auth login"
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"no such model: {name!r} is not a local folder, and on the hub it does not exist or "
            "is private; check the name, or run: hf auth login"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return (
            f"{name} has no revision {repository.revision!r}; its branches and tags are listed on "
            f"{page}/tree/main"
        )
    if isinstance(error, errors.HFValidationError):
        return (
            f"no such model: {name!r} is neither a local folder nor a valid hub id "
            f"({_first_line(error)})"
        )
    if isinstance(error, errors.HfHubHTTPError) and error.response.status_code in (401, 403):
        return f"{name}: the hub rejected the token; create a new one and run: hf auth login"
    not_in_repository = isinstance(error, errors.EntryNotFoundError)
    if missing and not_in_repository and not isinstance(error, errors.LocalEntryNotFoundError):
        return f"{name} has no {missing[0]}; weights are read from safetensors files only"
    if isinstance(error, OSError) and error.errno in CACHE_ERRORS:
        return (
            f"{constants.HF_HUB_CACHE}: {error.strerror}; set HF_HOME to a writable folder with "
            "enough space for the model"
        )
    return None


def _unreachable(repository: HubRepository, error: Exception, missing: Sequence[str]) -> str:
    """The message for files that are not cached and cannot be downloaded now."""
    reason = _connection_error(error)
    if missing:
        return (
            f"{repository.name}: {abbreviate(list(missing))} missing in the hub cache, and "
            f"{reason}; run the command online to resume the download"
        )
    at = "" if repository.revision is None else f" at revision {repository.revision!r}"
    return (
        f"no such model: {repository.name!r} is not a local folder and not, or only partly, in the "
        f"hub cache{at}, and {reason}; run the command once online"
    )


def _connection_error(error: Exception) -> str:
    from huggingface_hub import constants, errors

    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # the outer error only says that the cache has no copy
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set"
    if isinstance(error, errors.HfHubHTTPError):
        return f"the hub responded with status {error.response.status_code}"
    return f"{constants.ENDPOINT} cannot be reached ({_first_line(error)})"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
