"""Getting the three icon sets from the npm registry, as Iconify packs them."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import tempfile
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

_MEMBER = "package/icons.json"


def fetch_icons(folder: Path) -> dict[str, Path]:
    """Put `noto.json`, `fluent.json` and `twemoji.json` into `folder` and return their paths.

    Files already there are kept. Raises InputError if npm is missing or cannot download.
    """
    paths = {style: folder / f"{style}.json" for style in STYLES}
    missing = [style for style in STYLES if not paths[style].is_file()]
    if not missing:
        return paths
    folder.mkdir(parents=True, exist_ok=True)
    npm = shutil.which("npm")
    if npm is None:
        raise InputError(_advice(folder, missing, "npm was not found"))
    for style in missing:
        _fetch(npm, style, paths[style])
    return paths


def _fetch(npm: str, style: str, path: Path) -> None:
    # Inside the target folder, so that the rename at the end stays on one file system.
    with tempfile.TemporaryDirectory(dir=path.parent) as work:
        command = [npm, "pack", "--silent", PACKAGES[style]]
        done = subprocess.run(command, cwd=work, capture_output=True, check=False)
        packed = list(Path(work).glob("*.tgz"))
        if done.returncode or not packed:
            raise InputError(_advice(path.parent, [style], f"npm pack {PACKAGES[style]} failed"))
        unpacked = Path(work) / "icons.json"
        with tarfile.open(packed[0]) as tar:
            member = tar.extractfile(_MEMBER)
            if member is None:
                raise InputError(f"{PACKAGES[style]} holds no {_MEMBER}")
            unpacked.write_bytes(member.read())
        os.replace(unpacked, path)


def _advice(folder: Path, styles: list[str], trouble: str) -> str:
    wanted = ", ".join(f"icons.json of {PACKAGES[s]} as {s}.json" for s in styles)
    return f"{trouble}: install Node.js with npm, or put into {folder}: {wanted}"
