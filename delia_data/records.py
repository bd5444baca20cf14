"""Row formats and row ids.

A record can be read from four formats and written to them:

    messages            {"messages": [{"role": "user", "content": ...}, ...]}
    prompt_completion   {"prompt": [message, ...] or text, "completion": [message] or text}
    alpaca              {"instruction": ..., "input": ..., "output": ...}, also system, history
    sharegpt            {"conversations": [{"from": "human", "value": ...}, ...]}

A record is a conversation that ends with the assistant's answer. In any format a turn can have
`role` and `content`, or `from` and `value`. Columns that change the meaning of a row
are never ignored: a `system` column becomes a system turn, and `read_record` refuses a row with
tools, images or a negative label (`UnsupportedRowError`).
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, get_args

from delia_data.errors import FormatError, UnsupportedRowError, printable

Format = Literal["messages", "prompt_completion", "alpaca", "sharegpt"]
Role = Literal["system", "user", "assistant"]

FORMATS: Final[tuple[Format, ...]] = get_args(Format)

FORMAT_COLUMNS: Final[dict[Format, tuple[str, ...]]] = {
    "messages": ("messages",),
    "prompt_completion": ("prompt", "completion"),
    "alpaca": ("instruction", "input", "output", "history"),
    "sharegpt": ("conversations",),
}
"""Columns of each format; a row has the format whose first column is not null."""

SYSTEM_COLUMNS: Final = ("system", "system_prompt", "system_message")
REASONING: Final = ("reasoning_content", "reasoning", "thinking")
"""Columns of a row and fields of a turn that hold reasoning, which is removed."""

UNSUPPORTED: Final[dict[str, str]] = {
    **dict.fromkeys(("tools", "functions", "tool_calls", "function_call"), "tools"),
    **dict.fromkeys(("images", "image", "videos", "video"), "images"),
    **dict.fromkeys(("audios", "audio"), "audio"),
    **dict.fromkeys(("label", "kto_tag"), "label_false"),
    **dict.fromkeys(("weight", "train", "training", "loss"), "weight_zero"),
    **dict.fromkeys(("chosen", "rejected"), "preference"),
}
"""Columns of a row and fields of a turn that text cannot express, with the drop reason."""

MEANINGFUL: Final = frozenset({*SYSTEM_COLUMNS, *REASONING, *UNSUPPORTED})
"""Columns of a row and fields of a turn that can change its meaning."""

# Flags have an effect if they are false, and are ignored if they are neither false nor true.
_FLAGS: Final = frozenset(
    name
    for name, reason in UNSUPPORTED.items()
    if reason in ("label_false", "weight_zero", "preference")
)
_TRUE: Final = ("true", "1", "1.0", "")
_KEPT: Final = MEANINGFUL - _FLAGS
_USED: Final = {format: _KEPT.union(columns) for format, columns in FORMAT_COLUMNS.items()}
TURN_FIELDS: Final = _KEPT | {"role", "content", "from", "value"}
"""Fields of a turn that are never ignored."""


def encodable(text: str) -> str:
    """Return a text in which question marks replace lone surrogates, which UTF-8 lacks."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


class Rejection(NamedTuple):
    """The reason to reject a row, which is counted, and its details, which are only stored."""

    reason: str
    detail: str = ""


_ROLES: Final[dict[str, Role]] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
}
_TOOL_ROLES: Final = ("tool", "function", "function_call", "observation", "ipython")
_FROM: Final[dict[Role, str]] = {"system": "system", "user": "human", "assistant": "gpt"}
_TEXT_PARTS: Final = ("text", "input_text", "output_text")
_REASONING_PARTS: Final = ("thinking", "reasoning", "redacted_thinking")
_NO_INPUT: Final = re.compile(r"\W*no ?inputs?( (is )?(needed|required|provided))?\W*", re.I)
_EXPLAINED: Final = {
    "tools": "the row uses tools",
    "images": "the row holds an image or a video",
    "audio": "the row holds audio",
    "label_false": "the row is labeled as a bad answer",
    "weight_zero": "the row or one of its answers is not to be trained on (weight 0)",
    "preference": "the row holds a chosen and a rejected answer",
}
# Invisible characters that Unicode does not classify as spaces, control or format characters.
_INKLESS: Final = (
    "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\U000e0100-\U000e01ef"
)
_IS_INKLESS: Final = re.compile(f"[{_INKLESS}]")
VISIBLE: Final = rf"[^\s\pZ\pC{_INKLESS}]"
"""Regular expression (RE2) of most characters that `is_blank` considers visible."""


@dataclass(frozen=True, slots=True)
class Message:
    """A turn of a conversation."""

    role: Role
    content: str

    def as_dict(self) -> dict[str, str]:
        """Return the turn for a chat template."""
        return {"role": self.role, "content": self.content}


@dataclass(frozen=True, slots=True)
class Record:
    """A row: a conversation whose last turn is the assistant's answer.

    Raises:
        FormatError: The question or the answer is missing, or a turn has no visible character.
    """

    messages: tuple[Message, ...]

    def __post_init__(self) -> None:
        if not self.messages or self.messages[-1].role != "assistant":
            raise FormatError("the row has no answer: its last turn must be the assistant's")
        if not any(message.role == "user" for message in self.messages):
            raise FormatError("the row has no question: one turn must be the user's")
        for message in self.messages:
            if is_blank(message.content):
                raise FormatError(
                    f"the row's {message.role} turn is empty: fill it or drop the row"
                )

    @classmethod
    def pair(cls, query: str, answer: str, *, system: str | None = None) -> Record:
        """Return the record of one question and its answer."""
        head = (Message("system", system),) if system else ()
        return cls((*head, Message("user", query), Message("assistant", answer)))

    @property
    def query(self) -> str:
        """The user's last turn."""
        return next(m.content for m in reversed(self.messages) if m.role == "user")

    @property
    def answer(self) -> str:
        """The assistant's last turn."""
        return self.messages[-1].content

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The turns before the answer."""
        return self.messages[:-1]

    @property
    def id(self) -> str:
        """Content id of the whole conversation."""
        return content_id(self.messages)


def content_id(messages: Sequence[Message]) -> str:
    """Return the content id of turns: 32 hexadecimal digits that depend on roles and contents.

    It is the MD5 of the role, the length in bytes, and the content of every turn. With the lengths,
    different turns never have the same text.
    """
    digest = hashlib.md5(usedforsecurity=False)
    for message in messages:
        content = message.content.encode("utf-8", "surrogatepass")
        digest.update(f"{message.role}:{len(content)}:".encode() + content)
    return digest.hexdigest()


def is_blank(text: str) -> bool:
    """Return whether a text has no visible character: only spaces, controls and the like."""
    for char in text:
        if "!" <= char <= "~":
            return False
        if char.isspace() or unicodedata.category(char) in {"Cc", "Cf", "Zs", "Zl", "Zp"}:
            continue
        if not _IS_INKLESS.match(char):
            return False
    return True


def check_format(name: str) -> Format:
    """Return `name` if it is a row format.

    Raises:
        FormatError: It is not; the message lists the formats.
    """
    for format in FORMATS:
        if name == format:
            return format
    raise FormatError(f"format {name!r} is unknown: use one of {', '.join(FORMATS)}")


def detect_format(row: Mapping[str, Any]) -> Format:
    """Return the format of a row, by its columns.

    Raises:
        FormatError: No format has such columns.
    """
    for format, (mark, *_) in FORMAT_COLUMNS.items():
        if row.get(mark) is not None:
            return format
    names = sorted(map(str, row))
    columns = ", ".join(map(printable, names)) or "none"
    marks = ", ".join(columns[0] for columns in FORMAT_COLUMNS.values())
    raise FormatError(f"the row's columns ({columns}) fit no known format: it needs one of {marks}")


def read_record(row: Mapping[str, Any], format: Format | None = None) -> Record:
    """Read a row of any format.

    Args:
        row: Columns and their values.
        format: The row's format; detected from its columns by default.

    Returns:
        The record, without the reasoning of its turns.

    Raises:
        UnsupportedRowError: The row has tools, images, audio, a negative label, a weight of 0, or
            a chosen and a rejected answer.
        FormatError: It is not a mapping, the columns fit no format, a value has the wrong type,
            or the row has no question or no answer.
    """
    return read_with_losses(row, format)[0]


@dataclass(slots=True)
class Losses:
    """Information that reading a row removed.

    Attributes:
        reasoning: Whether reasoning was removed.
        ignored: Columns, and fields of turns as `column.field`, that are not used.
    """

    reasoning: bool = False
    ignored: set[str] = field(default_factory=set)

    def ignore(self, fields: Mapping[str, Any], used: frozenset[str], prefix: str = "") -> None:
        """Add the fields that are not known and not empty."""
        for name, value in fields.items():
            if name in used or value is None:
                continue
            if name in _FLAGS and str(value).strip().casefold() in _TRUE:
                continue
            self.ignored.add(f"{prefix}{name}")


def losses_of(row: Mapping[str, Any], used: frozenset[str] = _KEPT) -> Losses:
    """Return the losses of a row of which the columns that are known are used."""
    lost = Losses(_has_reasoning(row))
    if not row.keys() <= used:
        lost.ignore(row, used)
    return lost


def read_with_losses(row: Mapping[str, Any], format: Format | None = None) -> tuple[Record, Losses]:
    """Read a row of any format, and return the record and the losses.

    Raises:
        FormatError: As `read_record`.
    """
    if not isinstance(row, Mapping):
        raise FormatError(
            f"the row is {_kind(row)}: give mappings with the columns of a row format, or records"
        )
    check_supported(row)
    format = check_format(format) if format else detect_format(row)
    lost = losses_of(row, _USED[format])
    match format:
        case "messages":
            turns = _turns(row.get("messages"), "messages", lost)
        case "sharegpt":
            turns = _turns(row.get("conversations"), "conversations", lost)
        case "prompt_completion":
            turns = [
                *_turns_or_text(row.get("prompt"), "user", "prompt", lost),
                *_turns_or_text(row.get("completion"), "assistant", "completion", lost),
            ]
        case "alpaca":
            turns = _alpaca_turns(row)
    return Record((*system_turn(row, turns), *turns)), lost


def check_supported(fields: Mapping[str, Any], *, answers: bool = True) -> None:
    """Refuse a row, or a turn, whose meaning text alone cannot express.

    Args:
        fields: Columns of a row or fields of a turn.
        answers: Whether the answer of the row is used, so that its label and weight matter.

    Raises:
        UnsupportedRowError: With the drop reason.
    """
    for name in UNSUPPORTED.keys() & fields.keys():
        value, reason = fields[name], UNSUPPORTED[name]
        if value is None:
            continue
        if reason in ("label_false", "weight_zero"):
            # A label that is 0 may be a class, but not in the columns of KTO.
            is_number = name in ("weight", "kto_tag") or (
                name == "label" and "completion" in fields
            )
            is_false = str(value).strip().casefold() == "false"
            unsupported = answers and (is_false or (is_number and _is_zero(value)))
        elif reason == "preference":
            unsupported = answers and all(fields.get(n) is not None for n in ("chosen", "rejected"))
        else:
            unsupported = not _is_empty(value)
        if unsupported:
            raise unsupported_row(reason)


def unsupported_row(reason: str) -> UnsupportedRowError:
    """Return the error of a row that is dropped for one of the reasons of `UNSUPPORTED`."""
    return UnsupportedRowError(
        f"{_EXPLAINED[reason]}, which a conversation of text cannot express: remove the row",
        reason,
    )


def read_text(value: Any, column: str) -> str:
    """Return a value that must be text; content parts are joined, bytes are decoded as UTF-8.

    Raises:
        UnsupportedRowError: A content part is an image or audio.
        FormatError: The value is not text, or its text cannot be encoded as UTF-8.
    """
    return _text(value, column, Losses())


def join_input(instruction: str, given: Any) -> str:
    """Join Alpaca's instruction and input; an input such as `<noinput>` counts as empty."""
    text = alpaca_input(given)
    if text and is_blank(instruction):
        return text
    return f"{instruction}\n\n{text}" if text else instruction


def alpaca_input(given: Any) -> str:
    """Return Alpaca's input: empty if it is null, blank, or words like "<noinput>"."""
    text = "" if given is None else read_text(given, "input")
    return "" if is_blank(text) or _NO_INPUT.fullmatch(text) else text


def write_record(record: Record, format: Format = "messages") -> dict[str, Any]:
    """Write a record as a row; reading it again gives the same record.

    A question that was read from Alpaca's `instruction` and `input` is written as `instruction`,
    with an empty `input`.

    Raises:
        FormatError: The format is unknown, or cannot represent this conversation.
    """
    match check_format(format):
        case "messages":
            return {"messages": [message.as_dict() for message in record.messages]}
        case "sharegpt":
            turns = [{"from": _FROM[m.role], "value": m.content} for m in record.messages]
            return {"conversations": turns}
        case "prompt_completion":
            return {
                "prompt": [message.as_dict() for message in record.prompt],
                "completion": [record.messages[-1].as_dict()],
            }
        case "alpaca":
            return _alpaca_row(record)


def system_turn(row: Mapping[str, Any], turns: Sequence[Message]) -> tuple[Message, ...]:
    """Return the turn of a `system` column; none if it is empty or repeats the system turn."""
    turn: tuple[Message, ...] = ()
    for name in SYSTEM_COLUMNS:
        text = "" if row.get(name) is None else read_text(row[name], name)
        if is_blank(text):
            continue
        first = (*turn, *turns)[:1]
        if not first or first[0].role != "system":
            turn = (Message("system", text),)
        elif first[0].content.strip() != text.strip():
            raise FormatError(
                f"the row has a system prompt and another one in column {name!r}: keep one of them"
            )
    return turn


def read_turns(value: Any, column: str) -> list[Message]:
    """Read a list of turns, with or without a last answer; empty system turns are omitted.

    Raises:
        FormatError: The value is not a list of turns, a role is unknown, or a content is not text.
    """
    return _turns(value, column, Losses())


def _turns(value: Any, column: str, lost: Losses) -> list[Message]:
    if hasattr(value, "tolist"):  # an array, as data frames hold lists
        value = value.tolist()
    if not isinstance(value, list | tuple):
        raise FormatError(f"column {column!r} must hold a list of turns, and holds {_kind(value)}")
    turns = []
    for turn in value:
        if not isinstance(turn, Mapping):
            raise FormatError(f"column {column!r} must hold a list of turns, one is {_kind(turn)}")
        name = turn.get("role")
        name = turn.get("from") if name is None else name
        if isinstance(name, bytes):
            name = read_text(name, column)
        if name in _TOOL_ROLES:
            raise unsupported_row("tools")
        role = _ROLES.get(name) if isinstance(name, str) else None
        if role is None:
            raise FormatError(
                f"role {name!r} in column {column!r} is unknown: use one of {', '.join(_ROLES)}"
            )
        check_supported(turn, answers=role == "assistant")
        lost.reasoning |= _has_reasoning(turn)
        if not turn.keys() <= TURN_FIELDS:
            lost.ignore(turn, TURN_FIELDS, f"{column}.")
        content, other = turn.get("content"), turn.get("value")
        if content is None:
            content = other
        elif other is not None and other != content:
            raise FormatError(
                f"a turn in column {column!r} holds a 'content' and another 'value': keep one"
            )
        if role == "system" and (content is None or is_blank(read_text(content, column))):
            continue
        turns.append(Message(role, _text(content, column, lost)))
    return turns


def _turns_or_text(value: Any, role: Role, column: str, lost: Losses) -> list[Message]:
    if isinstance(value, str | bytes):
        return [Message(role, read_text(value, column))]
    if value is None:
        raise FormatError(f"column {column!r} must hold text or a list of turns: the row has none")
    return _turns(value, column, lost)


def _alpaca_turns(row: Mapping[str, Any]) -> list[Message]:
    turns = []
    for query, answer in read_history(row.get("history")):
        turns += [Message("user", query), Message("assistant", answer)]
    query = join_input(read_text(row.get("instruction"), "instruction"), row.get("input"))
    answer = read_text(row.get("output"), "output")
    return [*turns, Message("user", query), Message("assistant", answer)]


def read_history(value: Any) -> Iterator[tuple[str, str]]:
    """Yield the earlier questions and answers of an Alpaca row.

    Raises:
        FormatError: The value is not a list of pairs of texts.
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if not value and not isinstance(value, int | float):
        return
    if not isinstance(value, list | tuple):
        raise FormatError(f"column 'history' must hold a list of pairs, and holds {_kind(value)}")
    for pair in value:
        pair = pair.tolist() if hasattr(pair, "tolist") else pair
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise FormatError(f"column 'history' must hold pairs of texts, one is {_kind(pair)}")
        yield read_text(pair[0], "history"), read_text(pair[1], "history")


def _alpaca_row(record: Record) -> dict[str, Any]:
    system, turns = "", list(record.messages)
    if turns[0].role == "system":
        system = turns.pop(0).content
    if [turn.role for turn in turns] != ["user", "assistant"] * (len(turns) // 2):
        raise FormatError(
            "a conversation whose turns do not alternate cannot be written as alpaca: use messages"
        )
    *history, query, answer = (turn.content for turn in turns)
    row: dict[str, Any] = {"instruction": query, "input": "", "output": answer}
    if system:
        row["system"] = system
    if history:
        row["history"] = [list(pair) for pair in zip(history[::2], history[1::2], strict=True)]
    return row


def _text(value: Any, column: str, lost: Losses) -> str:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return "".join(_part_text(part, column, lost) for part in value)
    if isinstance(value, bytes | bytearray | memoryview):
        try:
            return bytes(value).decode()
        except UnicodeDecodeError as error:
            raise FormatError(
                f"column {column!r} holds bytes that are not UTF-8 text: encode them as UTF-8"
            ) from error
    if not isinstance(value, str):
        raise FormatError(f"column {column!r} must hold text, and holds {_kind(value)}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise FormatError(
                f"column {column!r} holds half a character ({error.object[error.start]!a}): "
                "correct or remove the row"
            ) from error
    return value


def _part_text(part: Any, column: str, lost: Losses) -> str:
    """Return the text of a content part, such as `{"type": "text", "text": "Hello"}`."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind in _TEXT_PARTS:
        return read_text(part.get("text"), column)
    if kind in _REASONING_PARTS:
        lost.reasoning = True
        return ""
    for word, reason in (("image", "images"), ("video", "images"), ("audio", "audio")):
        if word in str(kind or ""):
            raise unsupported_row(reason)
    if "tool" in str(kind or ""):
        raise unsupported_row("tools")
    shown = f"of type {kind!r}" if kind else f"that is {_kind(part)}"
    raise FormatError(
        f"column {column!r} holds a content part {shown}: only parts of type 'text' can be joined"
    )


def _is_zero(value: Any) -> bool:
    try:
        return float(value) == 0.0
    except (TypeError, ValueError, OverflowError):
        return False


def _has_reasoning(fields: Mapping[str, Any]) -> bool:
    return any(_is_present(fields[name]) for name in REASONING if name in fields)


def _is_present(value: Any) -> bool:
    return value is not None and value is not False and not _is_empty(value)


def _is_empty(value: Any) -> bool:
    """Return whether a column holds nothing: null, no elements, or such a value as JSON text."""
    if isinstance(value, str):
        return value.strip() in {"", "[]", "{}", "null", "None"}
    try:
        return len(value) == 0
    except TypeError:
        return False


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
