"""Check what the built packages contain: python -m tools.check_dist [FOLDER].

FOLDER (default `dist`) holds one sdist and one wheel. Ends with an error that names every file that
is missing or must not be there.
"""

from __future__ import annotations

import sys
import tarfile
import zipfile
from pathlib import Path

MODEL = (
    "config.json",
    "emu3.json",
    "emu3.tiktoken",
    "emu3_vision_tokens.txt",
    "generation_config.json",
    "model.safetensors",
    "tokenizer_config.json",
    "vision_tokenizer/config.json",
    "vision_tokenizer/model.safetensors",
    "vision_tokenizer/preprocessor_config.json",
)
IN_WHEEL = ("emu3/py.typed", "emu3/cli/app.py", *(f"emu3/nano/{name}" for name in MODEL))
IN_SDIST = (
    "CHANGELOG.md",
    "LICENSE",
    "NOTICE",
    "README.md",
    "pyproject.toml",
    "tests/conftest.py",
    *(f"src/{name}" for name in IN_WHEEL),
)
MAX_WHEEL_MB = 45
"""nano's weights are 35 MB. More means that something else slipped in."""


def wheel_problems(path: Path) -> list[str]:
    """What is wrong with a wheel: missing files, and files that are not the library's."""
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
    licences = [name for name in names if name.endswith(".dist-info/licenses/NOTICE")]
    strangers = {name.split("/")[0] for name in names} - {"emu3"}
    strangers = {name for name in strangers if not name.endswith(".dist-info")}
    problems = [f"{path.name} lacks {name}" for name in IN_WHEEL if name not in names]
    problems += [f"{path.name} must not contain {name}" for name in sorted(strangers)]
    if not licences:
        problems.append(f"{path.name} lacks NOTICE")
    if path.stat().st_size > MAX_WHEEL_MB * 1e6:
        problems.append(f"{path.name} has more than {MAX_WHEEL_MB} MB")
    return problems


def sdist_problems(path: Path) -> list[str]:
    """What is wrong with an sdist: missing files."""
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    return [f"{path.name} lacks {name}" for name in IN_SDIST if name not in names]


def main(folder: str = "dist") -> None:
    """Check the one sdist and the one wheel of a folder."""
    (wheel,) = Path(folder).glob("emu3-*.whl")
    (sdist,) = Path(folder).glob("emu3-*.tar.gz")
    if problems := wheel_problems(wheel) + sdist_problems(sdist):
        sys.exit("\n".join(problems))
    for path in (wheel, sdist):
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, complete")


if __name__ == "__main__":
    main(*sys.argv[1:])
