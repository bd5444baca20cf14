"""The task: rows, instruction, wordings, and the words that would reveal the format."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from delia_data.errors import InputError
from delia_data.outputs import canonical_json
from delia_data.records import Record
from delia_data.tasks.scoring import Scoring, labels_of, scoring_name
from delia_data.tokens import DEFAULT_TOKEN

_WORDS_FOR_FORMATS: Final = """
    json jsonl yaml xml html csv tsv toml latex markdown table tables row rows column columns
    dict dictionary object objects key keys value values field fields attribute attributes
    array arrays list lists bullet bullets brace braces bracket brackets parenthesis parentheses
    quote quotes quoted quotation tag tags line lines label labels comma commas colon semicolon
    uppercase lowercase capitals
"""
_FORMAT_WORDS: Final = frozenset(_WORDS_FOR_FORMATS.split())
_WORD: Final = re.compile(r"\w+")
_SENTENCE: Final = re.compile(r"(?<=[.?!;])\s+|\n+")


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case."""
    return _WORD.findall(text.casefold())


def leaking_words(
    description: str, keys: Iterable[str] = (), labels: Iterable[str] = ()
) -> frozenset[str]:
    """Return the words that would reveal the format, in lower case.

    Args:
        description: The format that the token stands for, in ordinary words. Its words for
            formats count, such as `json`, `table` or `column`.
        keys: Keys of the answer's object; all count.
        labels: Possible answers or values. A label that the description names counts.
    """
    described = set(words_of(description))
    named = {label.casefold() for label in labels if set(words_of(label)) <= described}
    return (_FORMAT_WORDS & described) | {key.casefold() for key in keys} | named | {"json"}


def without_leaks(instruction: str, leaks: frozenset[str]) -> str:
    """Return the sentences of an instruction without format words; all if each has some."""
    sentences = [part.strip() for part in _SENTENCE.split(instruction) if part.strip()]
    single = {leak for leak in leaks if " " not in leak}
    plain = [sentence for sentence in sentences if not single & set(words_of(sentence))]
    return " ".join(plain) if plain else instruction.strip()


QUERY_SLOT: Final = "{query}"


@dataclass(frozen=True, slots=True)
class Wording:
    """One phrasing of the task's instruction.

    Attributes:
        text: The phrasing; `{query}` marks where the row's query goes.
        split: `"train"`, or `"test"` for a held-out wording.
        kind: Kind of phrasing (imperative, question, role, ...).
        plain: For a held-out wording, the same request without the token.
    """

    text: str
    split: Literal["train", "test"] = "train"
    kind: str = ""
    plain: str | None = None

    @property
    def id(self) -> str:
        """Content id of the text: 16 hexadecimal digits."""
        return hashlib.blake2b(self.text.encode(), digest_size=8).hexdigest()

    def fill(self, query: str) -> str:
        """Return the wording with a row's query in its slot."""
        return self.text.replace(QUERY_SLOT, query)

    def fill_plain(self, query: str) -> str:
        """Return the plain request with a row's query in its slot.

        Raises:
            InputError: The wording has no plain request.
        """
        if self.plain is None:
            raise InputError(f"wording {self.text!r} has no plain form: add one as 'plain'")
        return self.plain.replace(QUERY_SLOT, query)


@dataclass(frozen=True, slots=True)
class Task:
    """A small downstream dataset `D` (paper, Algorithm 1).

    Attributes:
        name: Name of the task.
        instruction: The instruction in one plain phrasing that describes the format.
        description: The format that the special token stands for, in ordinary words.
        common_wording: The single wording of the undiversified task; it names the token.
        keys: Keys of the JSON object that each answer must be; empty if answers are no objects.
        keywords: Words near which the token's representation is expected to move.
        train: Training rows of query and answer.
        test: Held-out rows.
        token: The special token.
        request: The instruction without the format; derived from the instruction if empty.
        meanings: More plain phrasings of the request, to compare the meaning of a wording with.
        scoring: How an answer is scored.
        forbidden: Words that no wording may use, in addition to those that reveal the format.
        system: System prompt under which the model itself wrote the answers. The token then stands
            for it, and a teacher with this prompt can be the target of training (`pairs_loss`).
        read: Losses of reading: ignored columns, removed reasoning, skipped files.
    """

    name: str
    instruction: str
    description: str
    common_wording: Wording
    keys: tuple[str, ...]
    keywords: tuple[str, ...]
    train: tuple[Record, ...]
    test: tuple[Record, ...] = ()
    token: str = DEFAULT_TOKEN
    request: str = ""
    meanings: tuple[str, ...] = ()
    scoring: Scoring = "json"
    forbidden: tuple[str, ...] = ()
    system: str = ""
    read: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels that answers, or the values of their objects, choose from; empty for free text."""
        return labels_of([row.answer for row in (*self.train, *self.test)])

    @property
    def leaks(self) -> frozenset[str]:
        """Words that would reveal the format, and the forbidden ones, in lower case."""
        leaking = leaking_words(self.description, self.keys, self.labels)
        return leaking | {word.casefold() for word in self.forbidden}

    @property
    def plain_request(self) -> str:
        """The request; if empty, the sentences of the instruction without the format."""
        return self.request or without_leaks(self.instruction, self.leaks)

    @property
    def sha256(self) -> str:
        """SHA-256 of the content: texts, rows, token, keys and scoring."""
        rows = [[record.id for record in split] for split in (self.train, self.test)]
        texts = [self.name, self.instruction, self.description, self.common_wording.text]
        rest = [self.request, self.meanings, scoring_name(self.scoring), self.forbidden]
        content = [*texts, self.keys, self.keywords, self.token, rest, rows]
        content += [self.system] if self.system else []
        return hashlib.sha256(canonical_json(content)).hexdigest()
