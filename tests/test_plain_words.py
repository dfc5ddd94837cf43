"""Words with a private meaning in earlier versions do not return to code, docs or messages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

STANDARD_TERMS = {
    "card": "generation defaults",
    "codec": "vision processor, or vision tokenizer",
    "corridor": "data flow",
    "darkroom": "vision worker",
    "door": "interface, entry point, or auth",
    "film": "video",
    "filmed": "generated video",
    "footage": "video",
    "grammar": "document format",
    "nobody": "name the component",
    "picture": "image",
    "reel": "video",
    "room": "the package, or max tokens",
    "said": "the type of the value: text, config, settings, result",
    "seat": "session",
    "shelf": "media cache",
    "somebody": "name the component",
    "telling": "captioning",
    "told": "the name of the argument or event",
    "whoever": "name the component",
}
"""Word without plural s, and what to write instead."""

ALLOWED_PHRASES = re.compile(
    r"model[ _]?cards?|film grained|are said to|--remote-pictures|codec_context|codecs=",  # PyAV, MIME
    re.IGNORECASE,
)

PENDING = (
    "src/emu3/cli/prepare.py",
    "src/emu3/data/",
    "src/emu3/hf/",
    "src/emu3/inference/",
    "src/emu3/models/kv_cache.py",
    "src/emu3/outputs.py",
    "src/emu3/processing/document_format.py",
)
"""Paths that are not converted yet."""


def scanned_files() -> Iterator[Path]:
    yield ROOT / "README.md"
    for folder, pattern in (("src", "*.py"), ("docs", "*.md")):
        for path in sorted((ROOT / folder).rglob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            if not name.startswith(PENDING):
                yield path


def words(text: str) -> Iterator[tuple[int, str]]:
    """Line numbers and lower-case words; snake_case and CamelCase are split."""
    for number, line in enumerate(text.splitlines(), start=1):
        for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", ALLOWED_PHRASES.sub("", line)):
            yield number, word.lower()


@pytest.mark.parametrize(
    "path", list(scanned_files()), ids=lambda path: str(path.relative_to(ROOT))
)
def test_no_private_words(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    found = [
        f"{name}:{number}: {word!r}; write {STANDARD_TERMS[base]}"
        for number, word in words(path.read_text(encoding="utf-8"))
        if (base := word.removesuffix("s")) in STANDARD_TERMS
    ]
    assert not found, "\n".join(found)
