"""Download of icon sets from the npm registry, in Iconify's format."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

from emu3.errors import InputError

STYLES = ("noto", "fluent", "twemoji")
"""The drawing styles. The style of a scene is an index into this tuple."""

STYLE_PACKAGES = {
    "noto": "@iconify-json/noto@1.2.9",  # Apache-2.0
    "fluent": "@iconify-json/fluent-emoji-flat@1.2.6",  # MIT
    "twemoji": "@iconify-json/twemoji@1.2.5",  # CC BY 4.0
}
"""npm package of each style. The versions are pinned so that the images are reproducible."""

OTHER_PACKAGES = {
    "emojione": "@iconify-json/emojione@1.2.3",  # CC BY 4.0
    "streamline": "@iconify-json/streamline-emojis@1.2.4",  # CC BY 4.0
    "blob": "@iconify-json/noto-v1@1.2.5",  # Apache-2.0: Noto Emoji before its redesign
    "shaded": "@iconify-json/fluent-emoji@1.2.7",  # MIT: Fluent Emoji, not the flat version
}
"""npm packages of further icon sets, which have some of the objects. Trained on by name."""

RECOGNITION_PACKAGES = {
    "openmoji": "@iconify-json/openmoji@1.2.29",  # CC BY-SA 4.0
    "emojione-v1": "@iconify-json/emojione-v1@1.2.3",  # CC BY-SA 4.0: EmojiOne, version 1
}
"""Icon sets for recognition only: their share-alike licence rules out generating their style."""

_MEMBER = "package/icons.json"


def fetch_icons(folder: Path, packages: Mapping[str, str] = STYLE_PACKAGES) -> dict[str, Path]:
    """Download `noto.json`, `fluent.json` and so on into `folder`; returns their paths by style.

    Existing files are kept. Raises InputError if npm is missing or a download fails.
    """
    paths = {style: folder / f"{style}.json" for style in packages}
    missing = [style for style in packages if not paths[style].is_file()]
    if not missing:
        return paths
    folder.mkdir(parents=True, exist_ok=True)
    npm = shutil.which("npm")
    if npm is None:
        raise InputError(_error_message(folder, packages, missing, "npm was not found"))
    for style in missing:
        if not _download(npm, packages[style], paths[style]):
            reason = f"npm pack {packages[style]} failed"
            raise InputError(_error_message(folder, packages, [style], reason))
    return paths


def fetch_package(package: str, path: Path) -> Path:
    """Download the `icons.json` of a package, such as `"@iconify-json/mdi@1.2.3"`, to `path`.

    An existing file is kept. Raises InputError if npm is missing or the download fails.
    """
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        npm = shutil.which("npm")
        if npm is None or not _download(npm, package, path):
            raise InputError(f"npm pack {package} failed; save its icons.json as {path}")
    return path


def _download(npm: str, package: str, path: Path) -> bool:
    """Download a package to `path`; returns whether npm succeeded."""
    # Inside the target folder, so that the rename at the end stays on one file system.
    with tempfile.TemporaryDirectory(dir=path.parent) as work:
        command = [npm, "pack", "--silent", package]
        done = subprocess.run(command, cwd=work, capture_output=True, check=False)
        packed = list(Path(work).glob("*.tgz"))
        if done.returncode or not packed:
            return False
        unpacked = Path(work) / "icons.json"
        with tarfile.open(packed[0]) as tar:
            member = tar.extractfile(_MEMBER)
            if member is None:
                raise InputError(f"{package} holds no {_MEMBER}")
            unpacked.write_bytes(member.read())
        os.replace(unpacked, path)
    return True


def _error_message(
    folder: Path, packages: Mapping[str, str], styles: list[str], reason: str
) -> str:
    files = ", ".join(f"icons.json of {packages[s]} as {s}.json" for s in styles)
    return f"{reason}: install Node.js with npm, or put into {folder}: {files}"
