"""The reference of the command line, as Markdown made from the Typer application."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import typer

from emu3.cli.app import build


def cli_markdown() -> str:
    """One section for each command: usage, help, arguments, options, examples."""
    root = typer.main.get_command(build())
    return "\n".join(line for _, lines in _commands("emu3", root) for line in lines)


def _commands(name: str, command: Any) -> Iterator[tuple[str, list[str]]]:
    """Every command that does something, by its full name."""
    if hasattr(command, "commands"):
        for part in command.commands.values():
            yield from _commands(f"{name} {part.name}", part)
    else:
        yield name, _section(name, command)


def _section(name: str, command: Any) -> list[str]:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    usage = " ".join([name, "[OPTIONS]", *(_metavar(argument) for argument in arguments)])
    lines = [f"## {name}", "", _plain(command.help), "", "```text", usage, "```", ""]
    if arguments:
        lines += ["| argument | meaning |", "|---|---|"]
        lines += [f"| `{_metavar(p)}` | {_cell(p.help)} |" for p in arguments] + [""]
    lines += ["| option | meaning | default |", "|---|---|---|"]
    lines += [f"| {_names(p)} | {_cell(p.help)} | {_default(p)} |" for p in options if not p.hidden]
    return [*lines, "", *_epilog(command.epilog or ""), ""]


def _metavar(argument: Any) -> str:
    """PROMPT, or PROMPT... for several, in brackets if optional."""
    name = (argument.metavar or argument.name.upper()).removesuffix("...")
    shown = name + ("..." if argument.nargs == -1 else "")
    return shown if argument.required else f"[{shown}]"


def _names(option: Any) -> str:
    names = [*option.opts, *option.secondary_opts]
    kind = "" if option.is_flag else f" {option.metavar or _type_name(option)}"
    variable = f" (or `{option.envvar}`)" if option.envvar else ""
    return ", ".join(f"`{name}{kind}`" for name in names) + variable


def _type_name(option: Any) -> str:
    """INT, PATH, TEXT; of a list, the name of its items' type."""
    kind = option.type_descriptor.annotation
    kind = next(iter(getattr(kind, "__args__", ())), kind)
    return "TEXT" if kind is str else str(getattr(kind, "__name__", "value")).upper()


def _default(option: Any) -> str:
    if option.required:
        return "required"
    shown = option.show_default
    if isinstance(shown, str):
        return shown
    if option.is_flag and option.secondary_opts:
        return f"`{(option.opts if option.default else option.secondary_opts)[0]}`"
    return "" if option.default is None or option.is_flag else f"`{option.default}`"


def _epilog(text: str) -> list[str]:
    """Examples as one block of code, everything else as text."""
    examples, remarks = list[str](), list[str]()
    for line in (" ".join(part.split()) for part in text.strip().split("\n\n")):
        if re.match(r"(emu3|torchrun|curl|python) ", line):
            command, _, remark = line.partition("[dim]")
            comment = f"  # {_unmarked(remark).strip()}" if remark else ""
            examples.append(_unmarked(command).strip() + comment)
        elif "[bold]" not in line:
            remarks += [_plain(line), ""]
    return [*(["```sh", *examples, "```", ""] if examples else []), *remarks]


def _plain(text: str) -> str:
    return _unmarked(" ".join((text or "").split()))


def _cell(text: str | None) -> str:
    return _plain(text or "").replace("|", "\\|")


def _unmarked(text: str) -> str:
    """Text without Rich's markup."""
    return re.sub(r"(?<!\\)\[/?[a-z]+\]", "", text).replace("\\[", "[")
