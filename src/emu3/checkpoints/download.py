"""From the hub to its cache on this machine: the small files first, the weights when wanted.

All of it through huggingface_hub: its cache, its token, its offline mode, its progress bars. One
thing it leaves out is added: a weight file goes on where a killed download stopped. A published
shard has 4.7 GB, and huggingface_hub begins it again.
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

SMALL = ["*.json", "*.tiktoken", "*_vision_tokens.txt", "chat_template.*"]
SHA256 = 64  # hex digits; the hub's name of a large file is its hash
UNUSABLE = frozenset({errno.EACCES, errno.EDQUOT, errno.ENOSPC, errno.EPERM, errno.EROFS})
"""Errors of the file system that another place for the cache would put right."""


@dataclass(frozen=True)
class HubRepository:
    """A model repository of the hub, at a revision: a branch, a tag or a commit."""

    name: str
    revision: str | None = None

    def download_small_files(self) -> Path:
        """The folder of the repository in the cache, with all but weights in it, up to date.

        Without a network, as it is in the cache. Raises InputError where that cannot be had.
        """
        import huggingface_hub

        with _in_one_line(self):
            found = huggingface_hub.snapshot_download(
                self.name, revision=self.revision, allow_patterns=SMALL, tqdm_class=_silent()
            )
        return Path(found)

    def download_weights(self, folder: Path) -> None:
        """Bring what weights are missing into the folder; no network is needed where none are.

        Raises InputError where that cannot be done, naming what is missing.
        """
        missing = _missing(folder)
        # One after the other, in this thread: a Ctrl-C ends it at once, and costs nothing.
        for number, file in enumerate(missing):
            with _in_one_line(self, missing[number:]):
                self._fetch(file, folder)

    def _fetch(self, file: str, folder: Path) -> None:
        """One file, to where huggingface_hub looks for it: `blobs/`, under its hash."""
        import huggingface_hub
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import WeakFileLock, build_hf_headers

        commit, repository = folder.name, folder.parents[1]  # …/models--a--b/snapshots/COMMIT
        url = huggingface_hub.hf_hub_url(self.name, file, revision=commit)
        about = huggingface_hub.get_hf_file_metadata(url)
        if about.etag is not None and about.size is not None:
            blob = repository / "blobs" / about.etag
            part = blob.with_name(f"{about.etag}.incomplete")
            # huggingface_hub's own lock: no two processes may write to one file.
            lock = repository.parent / ".locks" / repository.name / f"{about.etag}.lock"
            for parent in (blob.parent, lock.parent):
                parent.mkdir(parents=True, exist_ok=True)
            with WeakFileLock(lock):
                if not blob.exists():
                    with part.open("ab") as to:
                        begun = to.tell()
                        http_get(
                            url,
                            to,
                            resume_size=begun,
                            headers=build_hf_headers(),
                            expected_size=about.size,
                            displayed_filename=file,
                        )
                    if begun:
                        _check_whole(part, about.etag)
                    part.replace(blob)
        huggingface_hub.hf_hub_download(self.name, file, revision=commit)  # a link to the blob


def _missing(folder: Path) -> list[str]:
    """The weight files that the index names, or the only one, as far as they are not there."""
    files = [folder / SINGLE_FILE]
    if (folder / INDEX_FILE).exists():
        files = list(weight_files(folder))
    return [path.relative_to(folder).as_posix() for path in files if not path.exists()]


def _check_whole(part: Path, etag: str) -> None:
    """Two stretches put together must be the file that was meant; else both are thrown away."""
    if len(etag) != SHA256:
        return
    with part.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != etag:
        part.unlink()
        raise InputError(f"{part.name}: the two halves of a download do not fit; run it once more")


def _silent() -> type:
    """A progress bar that never shows: small files are there before it could be read."""
    from huggingface_hub.utils import tqdm

    class Silent(tqdm):
        def __init__(self, *args: object, **options: object) -> None:
            super().__init__(*args, **{**options, "disable": True})

    return Silent


@contextmanager
def _in_one_line(repository: HubRepository, missing: Sequence[str] = ()) -> Iterator[None]:
    """Turn whatever goes wrong on the way from the hub into one line that says what to do."""
    from huggingface_hub.errors import HTTPError  # httpx's or requests'

    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the download goes on from there next time") from None
    except InputError:
        raise
    except (HTTPError, OSError, ValueError) as error:
        said = _refusal(repository, error, missing) or _lack(repository, error, missing)
        raise InputError(said) from None


def _refusal(repository: HubRepository, error: Exception, missing: Sequence[str]) -> str | None:
    """What a person has to put right, here or on the hub; None where it is the connection."""
    from huggingface_hub import constants, errors

    name, page = repository.name, f"{constants.ENDPOINT}/{repository.name}"
    if isinstance(error, errors.GatedRepoError):
        return f"{name} is gated: accept its licence on {page}, then run: hf auth login"
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"no such model: {name!r} is no folder here, and on the hub it does not exist or is "
            "private; check the name, or run: hf auth login"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return (
            f"{name} has no revision {repository.revision!r}; its branches and tags are listed on "
            f"{page}/tree/main"
        )
    if isinstance(error, errors.HFValidationError):
        return f"no such model: {name!r} is no folder here and no hub id ({_first_line(error)})"
    if isinstance(error, errors.HfHubHTTPError) and error.response.status_code in (401, 403):
        return f"{name}: the hub refuses your token; make a new one and run: hf auth login"
    absent = isinstance(error, errors.EntryNotFoundError)
    if missing and absent and not isinstance(error, errors.LocalEntryNotFoundError):
        return f"{name} holds no {missing[0]}; weights are read from safetensors only"
    if isinstance(error, OSError) and error.errno in UNUSABLE:
        return (
            f"{constants.HF_HUB_CACHE}: {error.strerror}; set HF_HOME to a folder with room for "
            "the model"
        )
    return None


def _lack(repository: HubRepository, error: Exception, missing: Sequence[str]) -> str:
    """What is not here, and why it cannot be fetched."""
    why = _reason(error)
    if missing:
        return (
            f"{repository.name}: {abbreviate(list(missing))} missing in the hub's cache, and {why}; run "
            "it once online, and the download goes on from there"
        )
    at = "" if repository.revision is None else f" at revision {repository.revision!r}"
    return (
        f"no such model here: {repository.name!r} is no folder, it is not, or not whole, in the "
        f"hub's cache{at}, and {why}; run it once online"
    )


def _reason(error: Exception) -> str:
    from huggingface_hub import constants, errors

    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # it says only that the cache does not help either
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set"
    if isinstance(error, errors.HfHubHTTPError):
        return f"the hub answers {error.response.status_code}"
    return f"{constants.ENDPOINT} is not reached ({_first_line(error)})"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
