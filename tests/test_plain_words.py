"""Words with a private meaning in earlier versions do not return to code, docs or messages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

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
    "|".join(
        (
            r"model[ _]?cards?",  # of the Hugging Face hub
            r"film grained",  # in BAAI's prompt suffix
            r"are said to",
            r"room for",
            r"codec_context|codecs=",  # PyAV, MIME types
            r"--remote-pictures",  # an option of earlier versions
            r'"footage": "video"',  # a field of stored jobs of earlier versions
        )
    ),
    re.IGNORECASE,
)


DATA_FILES = {"captions.py", "test_captions.py", "objects.py", "extra_objects.py"}
"""Words of the demo model's captions and icons are data."""


def scanned_files() -> Iterator[Path]:
    yield ROOT / "README.md"
    yield from sorted((ROOT / "docs").rglob("*.md"))
    for folder in ("src", "benchmarks", "recipes", "tests", "tools"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path != Path(__file__).resolve() and path.name not in DATA_FILES:
                yield path


def words(text: str) -> Iterator[tuple[int, str]]:
    """Line numbers and lower-case words; snake_case and CamelCase are split."""
    for number, line in enumerate(text.splitlines(), start=1):
        for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", ALLOWED_PHRASES.sub("", line)):
            yield number, word.lower()


def test_no_private_words() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {word!r}; write {STANDARD_TERMS[base]}"
        for path in scanned_files()
        for number, word in words(path.read_text(encoding="utf-8"))
        if (base := word.removesuffix("s")) in STANDARD_TERMS
    ]
    assert not found, "\n".join(found)
