"""Chat templates with generation marks, which say what of a row the assistant wrote.

Few models come with them. Where a template has none, another one is looked for that writes the
same text and has them: among those here, and among those that TRL ships. That it writes the same
is tried out on conversations with and without a system turn, of several turns, with blanks at the
ends, and with tools.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from delia_data.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MARK: Final = re.compile(r"\{%-?\s*generation\s*-?%\}")
_SAID: Final = {"user": " A question? \n", "assistant": "\nAn answer. ", "system": " Be brief.\n"}
_CONVERSATIONS: Final = (
    ("user", "assistant"),
    ("system", "user", "assistant"),
    ("user", "assistant", "user", "assistant"),
    ("system", "user", "assistant", "user", "assistant"),
)
_TOOL: Final = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds.",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    },
}


def has_generation_marks(template: str | None) -> bool:
    """Tell whether a chat template marks what the assistant says."""
    return template is not None and _MARK.search(template) is not None


def marked_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """The chat template if it has generation marks, or one that writes the same and has them.

    Raises:
        InputError: There is no chat template, or none with marks is known that writes the same.
    """
    own = tokenizer.chat_template
    name = tokenizer.name_or_path or "the tokenizer"
    if not isinstance(own, str):
        raise InputError(f"{name} has no chat template: use an instruction-tuned model")
    if has_generation_marks(own):
        return own
    wanted = _writings(tokenizer, own)
    for template in _known():
        if _writings(tokenizer, template) == wanted:
            return template
    raise InputError(
        f"{name}: the chat template has no generation marks, and none that writes the same is "
        "known: use the loss prompt-completion, or put {% generation %} and {% endgeneration %} "
        "around what the assistant says"
    )


def _known() -> Iterator[str]:
    """Templates with marks: ours, then those of TRL, which is not imported for it."""
    ours = files("delia_data.tokens") / "templates"
    for file in sorted(ours.iterdir(), key=lambda file: file.name):
        if file.name.endswith(".jinja"):
            yield file.read_text(encoding="utf-8")
    found = importlib.util.find_spec("trl")
    for folder in (found.submodule_search_locations or []) if found else []:
        for path in sorted((Path(folder) / "chat_templates").glob("*_training.jinja")):
            yield path.read_text(encoding="utf-8")


def _writings(tokenizer: PreTrainedTokenizerBase, template: str) -> list[str | None]:
    """What a template writes of some conversations; None where it refuses one."""
    tools: tuple[Any, ...] = (None, [_TOOL]) if "tools" in str(tokenizer.chat_template) else (None,)
    return [
        _writing(tokenizer, template, roles[:length], given)
        for roles in _CONVERSATIONS
        for length in (len(roles), len(roles) - 1)
        for given in tools
    ]


def _writing(
    tokenizer: PreTrainedTokenizerBase, template: str, roles: tuple[str, ...], tools: Any
) -> str | None:
    from jinja2.exceptions import TemplateError

    try:
        return str(
            tokenizer.apply_chat_template(
                [{"role": role, "content": _SAID[role]} for role in roles],
                chat_template=template,
                tools=tools,
                tokenize=False,
                add_generation_prompt=roles[-1] != "assistant",
            )
        )
    except (TemplateError, TypeError):
        return None
