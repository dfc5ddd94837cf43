"""The house rules, checked by reading `src/emu3` and never by importing it.

A module's room is the first name after `emu3`: `emu3.vision.blocks` lives in `vision`. Rooms lie on
floors, and an import is an arrow that points down, or stays in its own room. Imports inside
functions and under TYPE_CHECKING are arrows too: a reader follows them all the same.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

PLAN = (
    ("errors", "precision", "config", "vocab", "files", "progress", "limits"),  # facts
    (  # rooms
        "text", "image", "video", "grammar", "sampling", "decoder", "vision", "emoji_world",
        "card", "hub", "download", "output", "shards", "layouts",
    ),
    (  # joints
        "prompt", "weights", "memory", "codec", "generate", "windows", "quantize", "fuse",
        "parallel",
    ),
    ("checkpoint",),  # the whole
    (
        "pipeline", "pictures", "clips", "telling", "conversation", "convert", "data", "engine",
        "testing",
    ),  # doors to it
    ("serve", "train", "evaluate", "bench", "hf", "__init__"),  # users, and the front door `emu3`
    ("cli",),
    ("__main__",),  # `python -m emu3`
)  # fmt: skip
FLOORS = {room: floor for floor, rooms in enumerate(PLAN) for room in rooms}

SIDEWAYS = {
    ("config", "errors"),
    ("precision", "errors"),
    ("config", "precision"),
    ("vocab", "errors"),
    ("vocab", "config"),
    ("files", "errors"),
    ("limits", "errors"),
    ("layouts", "text"),
    ("layouts", "shards"),
    ("weights", "quantize"),
    ("memory", "quantize"),
    ("fuse", "quantize"),
    ("windows", "quantize"),
    ("windows", "generate"),
    ("hub", "download"),
    ("pipeline", "conversation"),
    ("pipeline", "pictures"),
    ("pipeline", "clips"),
    ("pipeline", "telling"),
    ("conversation", "clips"),
    ("engine", "clips"),
    ("download", "shards"),
}
"""The arrows allowed between two rooms of one floor."""

INSIDE = {"hf": "transformers"}
"""Rooms that are nothing without their extra: it is imported all over them, and they register
themselves with it when they are imported."""

FILE_LINES = 400
FUNCTION_LINES = 60


@dataclass(frozen=True)
class Arrow:
    """One import of ours by ours."""

    place: str
    source: str
    target: str


@dataclass(frozen=True)
class Module:
    """One file of the package."""

    name: str  # "emu3.vision.blocks"; a folder's __init__.py has the folder's name
    path: Path
    place: str  # the path as messages show it
    tree: ast.Module

    def at(self, node: ast.AST) -> str:
        return f"{self.place}:{getattr(node, 'lineno', 1)}"


@dataclass(frozen=True)
class House:
    """All modules under `root/src/emu3`."""

    root: Path

    @cached_property
    def modules(self) -> dict[str, Module]:
        modules = {}
        for path in sorted((self.root / "src" / "emu3").rglob("*.py")):
            parts = path.relative_to(self.root / "src").with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            tree = ast.parse(path.read_text(encoding="utf-8"))
            modules[name] = Module(name, path, path.relative_to(self.root).as_posix(), tree)
        return modules

    @cached_property
    def arrows(self) -> list[Arrow]:
        arrows = (
            Arrow(module.at(node), module.name, target)
            for module in self.modules.values()
            for node in ast.walk(module.tree)
            for target in self.targets(module, node)
        )
        return list(dict.fromkeys(arrows))

    def targets(self, module: Module, node: ast.AST) -> Iterator[str]:
        """The modules of ours that an import statement names."""
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if is_ours(alias.name))
        elif isinstance(node, ast.ImportFrom):
            base = origin(module, node)
            if is_ours(base):
                for alias in node.names:  # `from emu3 import text` means the module emu3.text
                    inner = f"{base}.{alias.name}"
                    yield inner if inner in self.modules else base


def is_ours(name: str) -> bool:
    return name == "emu3" or name.startswith("emu3.")


def origin(module: Module, node: ast.ImportFrom) -> str:
    """What a `from … import` starts at, with its leading dots worked out."""
    if not node.level:
        return node.module or ""
    up = node.level - (module.path.name == "__init__.py")
    parts = module.name.split(".")
    return ".".join([*parts[: len(parts) - up], *([node.module] if node.module else [])])


def room(name: str) -> str:
    return [*name.split("."), "__init__"][1]


def shown(name: str) -> str:
    return f"{name} (floor {FLOORS.get(room(name), 'unknown')})"


def in_type_checking(node: ast.stmt) -> bool:
    """Whether the statement is `if TYPE_CHECKING:`."""
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def in_main(node: ast.stmt) -> bool:
    """Whether the statement is `if __name__ == "__main__":`, which no import runs."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"


def run_on_import(tree: ast.Module) -> Iterator[ast.AST]:
    """Every node that runs when the file is imported: not functions, not `if TYPE_CHECKING`."""
    left: list[ast.AST] = [tree]
    while left:
        node = left.pop()
        yield node
        for child in ast.iter_child_nodes(node):
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            if not function and not (isinstance(child, ast.stmt) and in_type_checking(child)):
                left.append(child)


def core_packages() -> set[str]:
    """The packages that every installation has, by the name they are imported under."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = [re.split(r"[^\w-]", wanted)[0] for wanted in project["dependencies"]]
    return {"PIL" if name == "pillow" else name.replace("-", "_") for name in names}


Rule = Callable[[House], Iterator[str]]
"""A rule yields one line for each place that breaks it."""


def homeless(house: House) -> Iterator[str]:
    for module in house.modules.values():
        if room(module.name) not in FLOORS:
            known = f"{module.place}:1: no floor is written down for {room(module.name)!r}"
            yield f"{known}; put it into PLAN of tests/test_layers.py"


def upward(house: House) -> Iterator[str]:
    for arrow in house.arrows:
        ours, theirs = FLOORS.get(room(arrow.source)), FLOORS.get(room(arrow.target))
        if ours is not None and (theirs is None or theirs > ours):
            yield f"{arrow.place}: {shown(arrow.source)} imports {shown(arrow.target)}"


def sideways(house: House) -> Iterator[str]:
    for arrow in house.arrows:
        ours, theirs = room(arrow.source), room(arrow.target)
        same_floor = ours in FLOORS and FLOORS[ours] == FLOORS.get(theirs)
        if ours != theirs and same_floor and (ours, theirs) not in SIDEWAYS:
            yield f"{arrow.place}: {shown(arrow.source)} imports {shown(arrow.target)} next door"


def knots(house: House) -> Iterator[str]:
    graph: dict[str, set[str]] = {name: set() for name in house.modules}
    for arrow in house.arrows:
        graph[arrow.source].add(arrow.target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle = error.args[1][::-1]  # graphlib lists it against the arrows
        steps = set(pairwise(circle))
        lines = [f"{a.place} -> {a.target}" for a in house.arrows if (a.source, a.target) in steps]
        yield f"{' imports '.join(circle)} ({', '.join(lines)})"


def uses_of_the_command_line(house: House) -> Iterator[str]:
    for arrow in house.arrows:
        if room(arrow.target) == "cli" and room(arrow.source) not in ("cli", "__main__"):
            yield f"{arrow.place}: {arrow.source} imports the command line"


def pipeline_and_engine(house: House) -> Iterator[str]:
    for arrow in house.arrows:
        if {room(arrow.source), room(arrow.target)} == {"pipeline", "engine"}:
            yield f"{arrow.place}: {arrow.source} imports {arrow.target}"


def eager_extras(house: House) -> Iterator[str]:
    always_there = core_packages() | sys.stdlib_module_names | {"emu3"}
    for module in house.modules.values():
        at_home = {INSIDE.get(room(module.name))}
        for node in run_on_import(module.tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [origin(module, node)]
            for name in names:
                if name.split(".")[0] not in always_there | at_home:
                    yield f"{module.at(node)}: {name} is optional; import it where it is used"


def long_files(house: House) -> Iterator[str]:
    for module in house.modules.values():
        lines = len(module.path.read_text(encoding="utf-8").splitlines())
        if lines > FILE_LINES:
            yield f"{module.place}:{FILE_LINES + 1}: {lines} lines, {FILE_LINES} at most"


def long_functions(house: House) -> Iterator[str]:
    for module in house.modules.values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES:
                    size = f"{lines} lines, {FUNCTION_LINES} at most"
                    yield f"{module.at(node)}: {node.name} has {size}"


def work_on_import(house: House) -> Iterator[str]:
    for module in house.modules.values():
        for node in module.tree.body:
            if not is_declaration(node) and module.name.removeprefix("emu3.") not in INSIDE:
                yield f"{module.at(node)}: runs on import: {ast.unparse(node).splitlines()[0]}"


def is_declaration(node: ast.stmt) -> bool:
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return all(isinstance(target, ast.Name | ast.Tuple) for target in targets)
    if isinstance(node, ast.Expr):  # a docstring, of the file or of the constant above it
        return isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    defines = ast.Import | ast.ImportFrom | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return isinstance(node, defines) or in_type_checking(node) or in_main(node)


def build(root: Path, files: dict[str, str]) -> House:
    """A small made-up package under `root`."""
    for name, source in {"__init__.py": "", **files}.items():
        path = root / "src" / "emu3" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    return House(root)


@pytest.fixture(scope="module")
def house() -> House:
    return House(ROOT)


def holds(rule: Rule, house: House) -> None:
    broken = list(rule(house))
    if broken:
        pytest.fail("\n".join(broken), pytrace=False)


def test_the_house_is_found(house: House) -> None:
    assert {"emu3", "emu3.config", "emu3.vision.blocks"} <= set(house.modules)
    assert len(house.arrows) > len(house.modules)


def test_every_module_has_a_floor(house: House) -> None:
    holds(homeless, house)


def test_no_arrow_points_up(house: House) -> None:
    holds(upward, house)


def test_rooms_of_one_floor_do_not_know_each_other(house: House) -> None:
    holds(sideways, house)


def test_there_is_no_circle(house: House) -> None:
    holds(knots, house)


def test_nothing_imports_the_command_line(house: House) -> None:
    holds(uses_of_the_command_line, house)


def test_pipeline_and_engine_are_strangers(house: House) -> None:
    holds(pipeline_and_engine, house)


def test_optional_packages_are_imported_where_they_are_used(house: House) -> None:
    holds(eager_extras, house)


def test_no_file_has_outgrown_one_idea(house: House) -> None:
    holds(long_files, house)


def test_no_function_has_outgrown_one_idea(house: House) -> None:
    holds(long_functions, house)


def test_importing_does_no_work(house: House) -> None:
    holds(work_on_import, house)


CAUGHT: dict[str, tuple[Rule, dict[str, str], str]] = {
    "a module nobody planned": (
        homeless,
        {"util.py": ""},
        "src/emu3/util.py:1: no floor is written down for 'util'",
    ),
    "an upward arrow": (
        upward,
        {"text.py": "\nfrom emu3.pipeline import Emu3\n", "pipeline.py": ""},
        "src/emu3/text.py:2: emu3.text (floor 1) imports emu3.pipeline (floor 4)",
    ),
    "an upward arrow inside a function": (
        upward,
        {"vision/__init__.py": "", "vision/blocks.py": "def f():\n    from ..generate import g\n"},
        "src/emu3/vision/blocks.py:2: emu3.vision.blocks (floor 1) imports emu3.generate (floor 2)",
    ),
    "an upward arrow for types": (
        upward,
        {"vocab.py": "if TYPE_CHECKING:\n    from emu3 import text\n", "text.py": ""},
        "src/emu3/vocab.py:2: emu3.vocab (floor 0) imports emu3.text (floor 1)",
    ),
    "the front door from inside": (
        upward,
        {"generate.py": "import emu3\n"},
        "src/emu3/generate.py:1: emu3.generate (floor 2) imports emu3 (floor 5)",
    ),
    "a neighbour": (
        sideways,
        {"grammar.py": "import emu3.text\n", "text.py": ""},
        "src/emu3/grammar.py:1: emu3.grammar (floor 1) imports emu3.text (floor 1) next door",
    ),
    "a circle within one room": (
        knots,
        {
            "decoder/__init__.py": "from emu3.decoder.cache import Cache\n",
            "decoder/cache.py": "from emu3.decoder import Cache\n",
        },
        "emu3.decoder imports emu3.decoder.cache imports emu3.decoder",
    ),
    "the command line": (
        uses_of_the_command_line,
        {"serve/__init__.py": "from emu3 import cli\n", "cli.py": ""},
        "src/emu3/serve/__init__.py:1: emu3.serve imports the command line",
    ),
    "pipeline and engine": (
        pipeline_and_engine,
        {"pipeline.py": "from emu3.engine import Engine\n", "engine/__init__.py": ""},
        "src/emu3/pipeline.py:1: emu3.pipeline imports emu3.engine",
    ),
    "an eager extra": (
        eager_extras,
        {"video.py": "import numpy.linalg\ntry:\n    import av.video\nexcept ImportError: ...\n"},
        "src/emu3/video.py:3: av.video is optional",
    ),
    "a long file": (
        long_files,
        {"text.py": "\n" * (FILE_LINES + 1)},
        "src/emu3/text.py:401: 401 lines, 400 at most",
    ),
    "a long function": (
        long_functions,
        {"text.py": "def f():\n" + "    1\n" * FUNCTION_LINES},
        "src/emu3/text.py:1: f has 61 lines, 60 at most",
    ),
    "work on import": (
        work_on_import,
        {"text.py": '"""Text."""\nX = 1\n"""One."""\nos.environ["X"] = "1"\n'},
        "src/emu3/text.py:4: runs on import: os.environ['X'] = '1'",
    ),
}


@pytest.mark.parametrize("case", CAUGHT)
def test_the_rules_catch(case: str, tmp_path: Path) -> None:
    rule, files, message = CAUGHT[case]
    (broken,) = rule(build(tmp_path, files))
    assert broken.startswith(message)


def test_the_rules_let_a_good_house_be(tmp_path: Path) -> None:
    files = {
        "__init__.py": "from emu3.pipeline import Emu3\n",
        "errors.py": "",
        "video.py": "from emu3.errors import InputError\n\ndef read():\n    import av\n",
        "pipeline.py": "from . import errors, video\n",
        "cli.py": "from emu3 import Emu3\nfrom emu3.serve import app\n",
        "serve.py": "if TYPE_CHECKING:\n    import fastapi\n",
    }
    good = build(tmp_path, files)
    for rule in {rule for rule, _, _ in CAUGHT.values()}:
        holds(rule, good)
