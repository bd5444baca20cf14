"""Chat templates with generation marks, which mark the text that the assistant wrote.

Few models come with them. For a template without marks, an equivalent one with marks is looked up
in this package and in TRL. Templates are equivalent if they write the same text for conversations
with and without a system turn, of several turns, with blanks at the ends, and with tools.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from delia_data.errors import InputError
from delia_data.tokens.template import template_options

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
    """Return whether a chat template marks the assistant's turns."""
    return template is not None and _MARK.search(template) is not None


def marked_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the chat template if it has generation marks, else an equivalent one that has them.

    Raises:
        InputError: There is no chat template, or no equivalent with marks is known.
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
        "around the assistant's text"
    )


def _known() -> Iterator[str]:
    """Yield templates with marks: of this package, then of TRL, which is not imported."""
    bundled = files("delia_data.tokens") / "templates"
    for file in sorted(bundled.iterdir(), key=lambda file: file.name):
        if file.name.endswith(".jinja"):
            yield file.read_text(encoding="utf-8")
    trl = importlib.util.find_spec("trl")
    for folder in (trl.submodule_search_locations or []) if trl else []:
        for path in sorted((Path(folder) / "chat_templates").glob("*_training.jinja")):
            yield path.read_text(encoding="utf-8")


def _writings(tokenizer: PreTrainedTokenizerBase, template: str) -> list[str | None]:
    """Return the texts of some conversations; None for one that the template refuses."""
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
                **template_options(tokenizer),
            )
        )
    except (TemplateError, TypeError):
        return None
