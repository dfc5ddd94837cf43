"""Draw the package graph of docs/architecture.md: python -m tools.package_graph [--check].

Rows are the layers of the import-linter contract in pyproject.toml, arrows are imports. An arrow
that follows from two others is left out, and so are the modules that only help others (HELPERS).
`--check` compares with the file and changes nothing.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs" / "architecture.svg"
WIDTH, ROW, BOX_WIDTH, BOX_HEIGHT = 860, 64, 100, 30
COLUMNS = {
    "cli": 0.36, "server": 0.6,
    "training": 0.1, "evaluation": 0.28, "bench": 0.44, "integrations": 0.8, "hf": 0.94,
    "api": 0.72, "inference": 0.45, "data": 0.16,
    "checkpoints": 0.58, "processing": 0.58, "models": 0.58, "config": 0.58, "errors": 0.58,
}  # fmt: skip
"""Where in its row a package stands, from 0 to 1, so that few arrows cross."""
HELPERS = {"files", "lazy", "outputs", "progress", "testing"}

Edge = tuple[str, str]


def layers() -> list[list[str]]:
    """The packages of each layer, from the top."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contract = project["tool"]["importlinter"]["contracts"][0]
    rows = [
        [name.strip(" ()") for name in layer.replace(":", "|").split("|")]
        for layer in contract["layers"]
    ]
    there = {path.stem for path in (ROOT / "src" / "emu3").iterdir()} - HELPERS
    rows = [[name for name in row if name in there] for row in rows]
    return [row for row in rows if row]


def imports() -> set[Edge]:
    """Which package imports which, lazily or for types too."""
    graph = grimp.build_graph("emu3", cache_dir=None)
    names = {name for row in layers() for name in row}
    edges = {
        (source.split(".")[1], target.split(".")[1])
        for source in graph.modules
        for target in graph.find_modules_directly_imported_by(source)
        if "." in source and "." in target
    }
    return {(a, b) for a, b in edges if a != b and {a, b} <= names}


def reduced(edges: set[Edge]) -> set[Edge]:
    """The edges that do not follow from others: the transitive reduction."""
    after = {a: {t for s, t in edges if s == a} for a, _ in edges}

    def reachable(start: str) -> set[str]:
        direct = after.get(start, set())
        return direct | {name for middle in direct for name in reachable(middle)}

    return {(a, b) for a, b in edges if not any(b in reachable(other) for other in after[a] - {b})}


def svg() -> str:
    """The drawing."""
    rows = layers()
    place = {
        name: (WIDTH * COLUMNS[name], ROW * number + ROW / 2)
        for number, row in enumerate(rows)
        for name in row
    }
    height = ROW * len(rows)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            'font-family="sans-serif" font-size="14">',
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" '
            'markerHeight="8" orient="auto"><path d="M0 0 8 4 0 8z" fill="#777"/></marker></defs>',
            *_arrows(place),
            *_boxes(place),
            "</svg>\n",
        ]
    )


def _arrows(place: dict[str, tuple[float, float]]) -> Iterator[str]:
    for source, target in sorted(reduced(imports())):
        (x1, y1), (x2, y2) = place[source], place[target]
        top, bottom = y1 + BOX_HEIGHT / 2, y2 - BOX_HEIGHT / 2
        bend = (bottom - top) / 2
        yield (
            f'<path d="M{x1:.0f} {top:.0f}C{x1:.0f} {top + bend:.0f} {x2:.0f} {bottom - bend:.0f} '
            f'{x2:.0f} {bottom:.0f}" fill="none" stroke="#777" marker-end="url(#tip)"/>'
        )


def _boxes(place: dict[str, tuple[float, float]]) -> Iterator[str]:
    for name, (x, y) in place.items():
        yield (
            f'<rect x="{x - BOX_WIDTH / 2:.0f}" y="{y - BOX_HEIGHT / 2:.0f}" width="{BOX_WIDTH}" '
            f'height="{BOX_HEIGHT}" rx="6" fill="#e8eaf6" stroke="#5c6bc0"/>'
        )
        yield f'<text x="{x:.0f}" y="{y + 5:.0f}" text-anchor="middle" fill="#111">{name}</text>'


def main() -> None:
    """Write the drawing, or compare it with the file."""
    if "--check" not in sys.argv[1:]:
        TARGET.write_text(svg(), encoding="utf-8")
    elif TARGET.read_text(encoding="utf-8") != svg():
        sys.exit("docs/architecture.svg is not up to date; run: make graph")


if __name__ == "__main__":
    main()
