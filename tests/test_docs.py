"""The README runs as printed, and everything that the documentation names exists."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image

from emu3.cli.app import build
from emu3.processing.video import video_writer
from tools import package_graph

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(path for path in (ROOT / "docs").rglob("*.md")),
]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
NOT_RUN = ("emu3 eval", "emu3 serve")
"""Commands of the README that take minutes, or never end."""


def page_id(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


every_page = pytest.mark.parametrize("page", PAGES, ids=page_id)


def code_blocks(page: Path, language: str) -> list[str]:
    return [block for name, block in BLOCK.findall(page.read_text("utf-8")) if name == language]


def shell_lines(page: Path) -> Iterator[str]:
    """The lines of shell blocks, with continued lines joined, and commands quoted in the text."""
    for block in code_blocks(page, "sh"):
        yield from block.replace("\\\n", " ").splitlines()
    prose = BLOCK.sub("", page.read_text("utf-8"))
    yield from (span.replace("\n", " ") for span in re.findall(r"`([^`]+)`", prose))


@pytest.fixture
def readme_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the files that the README takes for granted."""
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    (tmp_path / "images").mkdir()
    Image.fromarray(noise).save("images/noise.png")
    (tmp_path / "images" / "noise.txt").write_text("a lot of noise", encoding="utf-8")
    with video_writer(tmp_path / "clip.mp4", 8) as write:
        for _ in range(5):
            write(noise)
    return tmp_path


@pytest.mark.timeout(400)
@pytest.mark.slow
def test_readme_commands_run(readme_files: Path) -> None:
    commands = [
        shlex.split(line, comments=True)
        for block in code_blocks(ROOT / "README.md", "sh")
        for line in block.replace("\\\n", " ").splitlines()
        if line.startswith("emu3 ") and not line.startswith(NOT_RUN)
    ]
    assert len(commands) >= 5
    for command in commands:
        run = subprocess.run(
            [sys.executable, "-m", *command], capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, (command, run.stderr)
    assert Image.open("apple.png").size == (64, 64)


def test_readme_python_runs(readme_files: Path) -> None:
    run_python(ROOT / "README.md")


def run_python(page: Path) -> None:
    """Run the Python blocks of a page, one after another, in one namespace."""
    names: dict[str, Any] = {}
    blocks = code_blocks(page, "python")
    assert blocks
    for block in blocks:
        exec(compile(block, page_id(page), "exec"), names)


@pytest.mark.timeout(600)
@pytest.mark.slow
@pytest.mark.parametrize("name", ["first-image", "chat", "train"])
def test_tutorial_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its shell blocks as one script and then its Python blocks; no installation, no torchrun."""
    page = ROOT / "docs" / "tutorial" / f"{name}.md"
    lines = "\n".join(code_blocks(page, "sh")).splitlines()
    lines = [line for line in lines if not line.startswith(("make ", ". .venv", "torchrun "))]
    emu3 = f'emu3() {{ "{sys.executable}" -m emu3 "$@"; }}'
    script = "\n".join(["set -e", emu3, *lines])
    run = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    monkeypatch.chdir(tmp_path)
    if code_blocks(page, "python"):
        run_python(page)


@pytest.mark.timeout(400)
@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "explanation/memory",
        "how-to/fine-tune",
        "how-to/prepare-data",
        "how-to/video",
        "reference/presets",
    ],
)
def test_python_of_page_runs(name: str, readme_files: Path) -> None:
    prepare = ["emu3", "prepare", "images", "-o", "data", "--quiet"]
    subprocess.run([sys.executable, "-m", *prepare], check=True)
    run_python(ROOT / "docs" / f"{name}.md")


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 150


@every_page
def test_python_blocks_compile(page: Path) -> None:
    for block in code_blocks(page, "python"):
        compile(block, str(page), "exec")


@every_page
def test_links_resolve(page: Path) -> None:
    text = page.read_text("utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)|src=\"([^\"]+)\"", text):
        path = page.parent / (target[0] or target[1])
        assert path.exists(), f"{page_id(page)} links to {path}"


def cli_commands() -> dict[str, Any]:
    """Every command of `emu3` by its name, with groups."""
    found: dict[str, Any] = {}
    left = [("", typer.main.get_command(build()))]
    while left:
        prefix, command = left.pop()
        found[prefix.strip()] = command
        left += [(f"{prefix} {sub.name}", sub) for sub in getattr(command, "commands", {}).values()]
    return found


def unknown_options(words: list[str], commands: dict[str, Any]) -> list[str]:
    """Options of an `emu3` command line that do not exist; the command itself if it does not."""
    name = ""
    while words and f"{name} {words[0]}".strip() in commands and words[0] not in ("-h", "--help"):
        name = f"{name} {words.pop(0)}".strip()
    command = commands[name]
    if hasattr(command, "commands") and words and not words[0].startswith("-"):
        return [f"{name} {words[0]}".strip()]
    known = {"-h", "--help"}.union(*((*p.opts, *p.secondary_opts) for p in command.params))
    options = [word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)]
    return [option for option in options if option not in known]


@every_page
def test_commands_exist(page: Path) -> None:
    commands = cli_commands()
    options = {name for c in commands.values() for p in c.params for name in p.opts}
    for line in shell_lines(page):
        for part in re.split(r"\s*(?:\||&&)\s*", line):
            called = re.match(r"(?:torchrun .*-m )?emu3( .*)?$", part)
            if called:
                try:
                    words = shlex.split(called[1] or "", comments=True)
                except ValueError:
                    continue  # a word such as `emu3 "`, not a command
                assert unknown_options(words, commands) == [], f"{page_id(page)}: {part}"
        if option := re.match(r"(--[a-z][a-z-]+)(?: |$)", line):
            known = options | OTHER_OPTIONS
            assert option[1] in known, f"{page_id(page)} names {option[1]}"


OTHER_OPTIONS = {"--no-studio", "--unasked", "--quick", "--case"}
"""Options in the text that belong to a recipe or benchmark, or are the second name of one."""


def exists(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = find_spec(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        if found is None:
            continue
        if count == len(parts):
            return True
        value: Any = importlib.import_module(".".join(parts[:count]))
        for attribute in parts[count:]:
            if not hasattr(value, attribute):
                return False
            value = getattr(value, attribute)
        return True
    return False


@every_page
def test_modules_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    names = set(
        re.findall(r"[`\s(]((?:emu3|recipes|benchmarks|tools|tests)(?:\.[A-Za-z_]\w*)+)", text)
    )
    names = {name for name in names if not name.endswith((".json", ".md", ".py", ".tiktoken"))}
    for module, imported in re.findall(r"from (emu3[\w.]*) import ([\w, ]+)", text):
        names |= {f"{module}.{name.strip()}" for name in imported.split(",")}
    missing = sorted(name for name in names if not exists(name))
    assert missing == [], f"{page_id(page)} names {missing}"


@every_page
def test_paths_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    roots = r"(?:src|tests|recipes|benchmarks|docs|tools|\.ci)"
    paths = set(re.findall(rf"[`\s]({roots}/[\w./-]*\w)", text))
    missing = sorted(path for path in paths if not (ROOT / path).exists())
    modules = set(re.findall(r"`([a-z_]+/[\w/]*\w\.py)`", text))
    missing += sorted(
        path
        for path in modules
        if not any((ROOT / base / path).exists() for base in ("", "src/emu3"))
    )
    assert missing == [], f"{page_id(page)} names {missing}"


def test_symbols_of_architecture_exist() -> None:
    """`name` in `package/module.py`, and `Class.method`, are defined there."""
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8").replace("\n", " ")
    named = re.findall(r"((?:`[\w.]+`(?:, | and )?)+) (?:in |\()`([a-z_]+/[\w/]+\.py)`", text)
    assert len(named) > 5
    for names, path in named:
        source = (ROOT / "src" / "emu3" / path).read_text("utf-8")
        for name in re.findall(r"`([\w.]+)`", names):
            for part in name.split("."):
                assert re.search(rf"(?:def|class) {part}\b", source), f"{name} is not in {path}"


@every_page
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = {
        called[1] for line in shell_lines(page) if (called := re.match(r"make ([a-z]+)\b", line))
    }
    assert named <= targets, f"{page_id(page)} names {named - targets}"


def test_package_graph_is_current() -> None:
    assert package_graph.TARGET.read_text("utf-8") == package_graph.svg(), "run: make graph"


def test_http_reference_is_complete() -> None:
    """Every route, request field and metric of the server is on the page, and no other metric."""
    from emu3.server import metrics
    from emu3.server.openapi import REQUEST_SCHEMAS
    from emu3.server.routes import chat, images, system, videos

    text = (ROOT / "docs" / "reference" / "http.md").read_text("utf-8")
    routes = [each for part in (images, chat, videos, system) for each in part.router.routes]
    for route in routes:
        path = re.sub(
            r"{(\w+)[^}]*}", lambda m: "{" + m[1].removeprefix("video_") + "}", route.path
        )
        for method in route.methods:
            assert f"`{method} {path}`" in text
    for schema in REQUEST_SCHEMAS:
        for field in schema.model_fields:
            assert f"`{field}" in text, f"{field} of {schema.__name__}"
    defined = set(re.findall(r'"(emu3_\w+)"', Path(metrics.__file__).read_text("utf-8")))
    named = {name.removesuffix("_total") for name in re.findall(r"`(emu3_\w+)`", text)}
    assert named == defined
