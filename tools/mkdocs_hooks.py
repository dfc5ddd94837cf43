"""What `mkdocs build` does besides rendering: generated references, links into the source."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from tools.cli_reference import cli_markdown
from tools.preset_reference import presets_markdown

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+[^)#]+)(?:#[^)]*)?\)")

GENERATED = {"{{ cli }}": cli_markdown, "{{ presets }}": presets_markdown}
"""What stands for generated Markdown in a page."""

log = logging.getLogger("mkdocs.hooks")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Insert generated references; turn links to files outside docs/ into plain text."""
    for name, generate in GENERATED.items():
        if name in markdown:
            markdown = markdown.replace(name, generate())
    docs = ROOT / "docs"

    def replace(match: re.Match[str]) -> str:
        target = ((docs / page.file.src_uri).parent / match[2]).resolve()
        if target.is_relative_to(docs) or not target.is_relative_to(ROOT):
            return match[0]
        if not target.exists():
            log.warning("%s links to %s, which does not exist", page.file.src_uri, match[2])
        return match[1]  # the site has no page for it; on a code host the link works

    return LINK.sub(replace, markdown)
