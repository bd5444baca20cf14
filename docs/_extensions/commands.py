"""Write the reference of the commands and the table of exit codes from the application.

```{delia-commands}
```
```{delia-exit-codes}
```
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, ClassVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from delia_data.cli.app import COMMANDS, EXIT_CODES, load_command

__all__ = ["setup"]


class Commands(SphinxDirective):
    """A section for each command: usage, description, arguments and options."""

    has_content: ClassVar[bool] = False

    def run(self) -> list[nodes.Node]:
        text = "\n".join(
            line for name in COMMANDS for line in _described(f"delia {name}", load_command(name))
        )
        return self.parse_text_to_nodes(text, allow_section_headings=True)


class ExitCodes(SphinxDirective):
    """A table of the exit codes."""

    has_content: ClassVar[bool] = False

    def run(self) -> list[nodes.Node]:
        rows = [f"| {number} | {_cell(says)} |" for number, says in EXIT_CODES.items()]
        return self.parse_text_to_nodes("\n".join(["| code | meaning |", "| --- | --- |", *rows]))


def _described(called: str, command: Any) -> Iterator[str]:
    inner = getattr(command, "commands", None)
    if inner is not None:
        for name, each in inner.items():
            yield from _described(f"{called} {name}", each)
        return
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    usage = " ".join([called, *(_placeholder(p) for p in arguments), "[OPTIONS]"])
    yield from ["", f"## {called}", "", "```text", usage, "```", ""]
    yield inspect.cleandoc(command.help or "")
    if arguments:
        yield from ["", "| argument | meaning |", "| --- | --- |"]
        yield from (f"| `{_placeholder(p)}` | {_cell(p.help or '')} |" for p in arguments)
    if options:
        yield from ["", "| option | default | meaning |", "| --- | --- | --- |"]
        yield from (_option(p) for p in sorted(options, key=_in_a_panel))


def _in_a_panel(option: Any) -> bool:
    return getattr(option, "rich_help_panel", None) is not None


def _placeholder(argument: Any) -> str:
    name = argument.metavar or argument.name.upper()
    shown = f"{name}..." if argument.nargs == -1 and not argument.metavar else name
    return shown if argument.required else f"[{shown}]"


def _option(option: Any) -> str:
    names = ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
    default = option.default
    if option.required:
        shown = "required"
    elif default is None or default == [] or default == () or default == "" or callable(default):
        shown = ""
    else:
        shown = f"`{str(default).lower() if isinstance(default, bool) else default}`"
    more = " Can be repeated." if option.multiple else ""
    return f"| {names} | {shown} | {_cell(option.help or '')}{more} |"


def _cell(text: str) -> str:
    """Escape text for a table cell."""
    escaped = " ".join(text.split())
    for sign in "\\|<>*_[]{}$":
        escaped = escaped.replace(sign, f"\\{sign}")
    return escaped


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives."""
    app.add_directive("delia-commands", Commands)
    app.add_directive("delia-exit-codes", ExitCodes)
    return {"parallel_read_safe": True}
