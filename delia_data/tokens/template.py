"""Options of a chat template, and models that think before they answer.

A tokenizer has its template options, and saves them with its files. All code that puts turns
through the chat template of that tokenizer therefore uses the same options.

Models that think write their thoughts before the answer, and some templates begin them:

    prompt  <|im_start|>assistant           the model writes  <think> ... </think> The answer.
    prompt  <|im_start|>assistant <think>   the model writes  ... </think> The answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

import yaml

from delia_data.errors import InputError, unknown_name

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CARRIED: Final = "delia_template_options"
GENERATION_MARK: Final = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
_NOT_OPTIONS: Final = {"messages", "tools", "documents", "add_generation_prompt"}
# Marks around thoughts. A mark in quotes or backticks is mentioned, not used; the pattern begins
# with "<", which a search finds much faster than a lookbehind.
_MARK: Final = re.compile(
    r"(?P<open><(?<![`'\"]<)think>|<\|channel\|>analysis<\|message\|>|<\|channel>thought\b"
    r"|(?:<\|start\|>assistant)? to=self<\|message\|>|\[(?<![`'\"]\[)THINK\])"
    r"|(?P<close><(?<![`'\"]<)/think>|(?:<\|end\|>\s*)?(?:<\|start\|>assistant)?"
    r"<\|channel\|>final<\|message\|>|<channel\|>"
    r"|(?:<\|eom\|>\s*)?(?:<\|start\|>assistant)? to=user<\|message\|>"
    r"|\[(?<![`'\"]\[)/THINK\])",
    re.IGNORECASE,
)


def template_options(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return the options that a tokenizer gives to its chat template."""
    return dict(tokenizer.init_kwargs.get(_CARRIED) or {})


def set_template_options(
    tokenizer: PreTrainedTokenizerBase, options: Mapping[str, Any] | None
) -> None:
    """Add options to those that a tokenizer gives to its chat template, in place.

    Args:
        tokenizer: The tokenizer.
        options: Values by name, such as `{"enable_thinking": False}`; None changes nothing.

    Raises:
        InputError: The chat template does not read an option.
    """
    if not options:
        return
    check_template_options(options)
    names = template_variables(tokenizer)
    if unknown := [unknown_name("template option", name, names) for name in {*options} - {*names}]:
        name = tokenizer.name_or_path or "the tokenizer"
        raise InputError(f"the chat template of {name}: {'; '.join(sorted(unknown))}")
    tokenizer.init_kwargs[_CARRIED] = {**template_options(tokenizer), **options}


def check_template_options(options: Any) -> None:
    """Refuse options that are not JSON values by name.

    Raises:
        InputError: They are not.
    """
    try:
        json.dumps(options, allow_nan=False)
        valid = all(isinstance(name, str) and name.isidentifier() for name in options)
    except (TypeError, ValueError, RecursionError):
        valid = False
    if not valid or not isinstance(options, Mapping) or _NOT_OPTIONS & {*options}:
        raise InputError(
            f"template_options {options!r} is wrong: give values by name, such as "
            "enable_thinking=false"
        )


def parse_assignments(texts: Iterable[str], flag: str) -> dict[str, Any]:
    """Read texts of the form `NAME=VALUE` with values in YAML or JSON.

    Args:
        texts: The texts.
        flag: The flag they were given with, for errors.

    Raises:
        InputError: A text has another form.
    """
    values = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InputError(f"{flag} {text!r} is not NAME=VALUE")
        try:
            values[name.replace("-", "_")] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise InputError(
                f"{flag} {name}: the value is neither YAML nor JSON; quote it as in "
                f"""{name}='{{"key": "value"}}'"""
            ) from None
    return values


def template_variables(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the names of the options that a chat template reads, sorted."""
    from jinja2 import Environment, TemplateSyntaxError, meta

    if not isinstance(template := tokenizer.chat_template, str):
        return []
    try:
        parsed = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(
            GENERATION_MARK.sub("", template)
        )
    except TemplateSyntaxError:  # rendering it says what is wrong
        return []
    given = {*_NOT_OPTIONS, *tokenizer.special_tokens_map, "raise_exception", "strftime_now"}
    return sorted(meta.find_undeclared_variables(parsed) - given)


def with_defaults(template: str, options: Mapping[str, Any]) -> str:
    """Return a chat template whose options have other defaults.

    Programs that know nothing of the options then render turns with them.
    """
    lines = (
        f"{{%- if {name} is not defined %}}{{%- set {name} = {value!r} %}}{{%- endif %}}"
        for name, value in options.items()
    )
    return "".join(lines) + template


def split_reasoning(text: str) -> tuple[str, str | None]:
    """Separate an answer from the thoughts before it.

    Text between marks such as `<think>` and `</think>` is thoughts, and so is everything before a
    closing mark without an opening one, because chat templates may put the opening mark into the
    prompt. An answer that begins with an opening mark and never closes it is thoughts only.

    Args:
        text: The answer as the model wrote it.

    Returns:
        The answer without thoughts, and the thoughts; None if there are no marks.
    """
    answer: list[str] = []
    thoughts: list[str] = []
    position, opened, start = 0, None, 0
    for mark in _MARK.finditer(text):
        closing = mark["close"] is not None
        if closing and opened is None:
            thoughts = [*answer, text[position : mark.start()]]
            answer.clear()
        elif closing:
            thoughts.append(text[start : mark.start()])
        elif opened is None:
            answer.append(text[position : mark.start()])
            opened, start = mark.start(), mark.end()
        if closing:
            position, opened = mark.end(), None
    rest = text[position:]
    if opened is not None:
        rest = text[opened:] if any(map(str.strip, answer)) else ""
        if not rest:
            thoughts.append(text[start:])
    if not position and (opened is None or rest):
        return "".join([*answer, rest]), None
    return "".join([*answer, rest]), "\n".join(filter(None, map(str.strip, thoughts)))


def opened_reasoning(prompt: str) -> str:
    """Return the mark with which a prompt opens thoughts at its end; empty if it does not."""
    marks = list(_MARK.finditer(prompt))
    if marks and marks[-1]["open"] and not prompt[marks[-1].end() :].strip():
        return marks[-1][0]
    return ""
