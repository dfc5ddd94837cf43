"""Getting icon sets from the npm registry, as Iconify packs them."""

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
"""The drawing styles; an object's style is an index into this tuple."""

PACKAGES = {
    "noto": "@iconify-json/noto@1.2.9",  # Apache-2.0
    "fluent": "@iconify-json/fluent-emoji-flat@1.2.6",  # MIT
    "twemoji": "@iconify-json/twemoji@1.2.5",  # CC BY 4.0
}
"""npm package of each style, version pinned so that everybody gets the same pictures."""

OTHERS = {
    "emojione": "@iconify-json/emojione@1.2.3",  # CC BY 4.0
    "streamline": "@iconify-json/streamline-emojis@1.2.4",  # CC BY 4.0
    "blob": "@iconify-json/noto-v1@1.2.5",  # Apache-2.0: what Noto Emoji was before
    "shaded": "@iconify-json/fluent-emoji@1.2.7",  # MIT: Fluent Emoji before it was made flat
}
"""npm packages of other hands' drawings of the same things, as far as they drew them."""

READ = {
    "openmoji": "@iconify-json/openmoji@1.2.29",  # CC BY-SA 4.0
    "emojione-v1": "@iconify-json/emojione-v1@1.2.3",  # CC BY-SA 4.0: what EmojiOne was before
}
"""The same, of hands whose drawings are only named, never drawn: they are to be shared alike."""

_MEMBER = "package/icons.json"


def fetch_icons(folder: Path, packages: Mapping[str, str] = PACKAGES) -> dict[str, Path]:
    """Put `noto.json`, `fluent.json` and so on into `folder` and return their paths by style.

    Files already there are kept. Raises InputError if npm is missing or cannot download.
    """
    paths = {style: folder / f"{style}.json" for style in packages}
    missing = [style for style in packages if not paths[style].is_file()]
    if not missing:
        return paths
    folder.mkdir(parents=True, exist_ok=True)
    npm = shutil.which("npm")
    if npm is None:
        raise InputError(_advice(folder, packages, missing, "npm was not found"))
    for style in missing:
        if not _fetch(npm, packages[style], paths[style]):
            trouble = f"npm pack {packages[style]} failed"
            raise InputError(_advice(folder, packages, [style], trouble))
    return paths


def fetch_package(package: str, path: Path) -> Path:
    """Put the `icons.json` of another icon set, such as `"@iconify-json/mdi@1.2.3"`, at `path`.

    A file already there is kept. Raises InputError if npm is missing or cannot download.
    """
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        npm = shutil.which("npm")
        if npm is None or not _fetch(npm, package, path):
            raise InputError(f"npm pack {package} failed: put its icons.json at {path} by hand")
    return path


def _fetch(npm: str, package: str, path: Path) -> bool:
    """Whether npm could download the package; its icons are at `path` then."""
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


def _advice(folder: Path, packages: Mapping[str, str], styles: list[str], trouble: str) -> str:
    wanted = ", ".join(f"icons.json of {packages[s]} as {s}.json" for s in styles)
    return f"{trouble}: install Node.js with npm, or put into {folder}: {wanted}"
