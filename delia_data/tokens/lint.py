"""Check tokenized rows: the token is a single id, and only answers have a loss.

The lint checks the ids that training uses, decodes the labeled tokens, and compares them with the
answer. The checks:

    too-long             the row has more tokens than training keeps
    token-missing        a task row does not name its token
    token-lost           the chat template or the tokenizer changes the number of tokens
    token-cut            truncation removes a token
    pair-names-token     a pair, or the answer of a contrast row, names it
    turns-refused        the chat template refuses the turns, such as a system turn
    turn-lost            the chat template leaves out or changes the text of a turn
    special-in-turn      the text of a prompt turn holds a control token, such as <|im_end|>
    prompt-differs       the prompt has other tokens in generation than in training
    two-beginnings       the row begins with the beginning-of-sequence token twice
    nothing-labelled     no token is labeled, or none is left after truncation
    answer-differs       the labeled tokens are not those of the answer
    end-not-labelled     the end-of-turn token of the answer is not labeled: nothing teaches to stop
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from delia_data.errors import InputError
from delia_data.records import Record
from delia_data.tokens.adding import DEFAULT_TOKEN, split_tokens
from delia_data.tokens.encoding import EncodedRow, Loss, encode, prompt_advice, render_text
from delia_data.tokens.marks import marked_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_EXCERPT: Final = 60
"""Characters of a text that a reason quotes."""

SourceName: TypeAlias = Literal["task", "cache", "contrast"]
"""Source of a row, as the column `source` of a mixture."""
RowSource: TypeAlias = SourceName | bool
"""Source of a row, as the column `source` of a mixture; True for `"task"`, False for `"cache"`."""


@dataclass(frozen=True, slots=True)
class LintProblem:
    """A problem of a row.

    Attributes:
        row: Index of the row; -1 for a problem of the tokenizer.
        reason: The problem, in words.
        check: Name of the check, as in this module's docstring.
    """

    row: int
    reason: str
    check: str


@dataclass(frozen=True, slots=True)
class LintExample:
    """An encoded row for display.

    Attributes:
        row: Index of the row.
        source: `"task"`, `"cache"` or `"contrast"`.
        parts: Parts of its text, each with whether it has a loss.
    """

    row: int
    source: str
    parts: tuple[tuple[str, bool], ...]


@dataclass(frozen=True, slots=True)
class LintReport:
    """Counts and problems of the rows that were checked.

    Attributes:
        rows: Rows by source (`"task"`, `"cache"`, `"contrast"`).
        tokens: Tokens that training keeps, by source.
        labelled: Tokens with a loss, by source.
        longest: Tokens of the longest row, before truncation.
        cut: Rows that truncation shortens.
        problems: The problems, in the order of the rows.
        examples: The first rows of each source.
    """

    rows: dict[str, int]
    tokens: dict[str, int]
    labelled: dict[str, int]
    longest: int
    cut: int
    problems: tuple[LintProblem, ...]
    examples: tuple[LintExample, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain values, with the problems counted by check."""
        by_check = Counter(problem.check for problem in self.problems)
        return {**asdict(self), "problems_by_check": dict(sorted(by_check.items()))}


def lint(
    rows: Iterable[tuple[Record, RowSource]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    token: str = DEFAULT_TOKEN,
    max_length: int | None = None,
    loss: Loss = "prompt-completion",
) -> list[LintProblem]:
    """Check that the token is a single id and that only answers have a loss.

    Rows that truncation shortens pass as long as the token and some of the answer are left;
    `lint_rows` counts them, and can refuse them.

    Args:
        rows: Records, each with its source.
        tokenizer: The tokenizer, with the token added.
        token: The special token.
        max_length: Tokens that training keeps of a row; None for all.
        loss: How training finds the answer's tokens.

    Returns:
        The problems, in the order of the rows; empty if all rows are valid.

    Raises:
        InputError: There is no chat template, or it has no generation marks and `loss` needs them.
    """
    report = lint_rows(rows, tokenizer, tokens=(token,), max_length=max_length, loss=loss)
    return list(report.problems)


def lint_rows(
    rows: Iterable[tuple[Record, RowSource]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    tokens: Sequence[str] = (DEFAULT_TOKEN,),
    max_length: int | None = None,
    truncate: bool = True,
    loss: Loss = "prompt-completion",
    examples: int = 0,
) -> LintReport:
    """Lint rows, and count the tokens that training will compute.

    Args:
        rows: Records, each with its source.
        tokenizer: The tokenizer, with the tokens added.
        tokens: The special tokens; if there are any, every task row must name one of them.
        max_length: Tokens that training keeps of a row; None for all.
        truncate: Shorten longer rows; otherwise each is a problem.
        loss: How training finds the answer's tokens.
        examples: Number of rows of each source to return as examples.

    Raises:
        InputError: There is no chat template, or it has no generation marks and `loss` needs them.
    """
    linter = Linter(
        tokenizer,
        tokens=tokens,
        max_length=max_length,
        truncate=truncate,
        loss=loss,
        examples=examples,
    )
    for index, (record, source) in enumerate(rows if not linter.problems else ()):
        row = linter.encode(index, record, source)
        if row is not None:
            linter.check(index, record, source, row)
    return linter.report()


class Linter:
    """Encodes and checks single rows, and counts tokens.

    Attributes:
        problems: The problems so far; after construction, those of the tokenizer.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        tokens: Sequence[str] = (DEFAULT_TOKEN,),
        max_length: int | None = None,
        truncate: bool = True,
        loss: Loss = "prompt-completion",
        examples: int = 0,
    ) -> None:
        """Prepare the checks; arguments as for `lint_rows`."""
        self._tokenizer, self._loss = tokenizer, loss
        self._max_length, self._truncate, self._shown = max_length, truncate, examples
        self._template = marked_template(tokenizer) if loss == "generation-marks" else None
        self._names = tuple(tokens)
        ids = {t: tokenizer.encode(t, add_special_tokens=False) for t in split_tokens(*tokens)}
        self.problems = [
            LintProblem(-1, f"{t} is {len(of)} ids: add it to the tokenizer first", "token-lost")
            for t, of in ids.items()
            if len(of) != 1
        ]
        self._ids = {token: of[0] for token, of in ids.items() if len(of) == 1}
        own, added = set(self._ids.values()), tokenizer.added_tokens_decoder
        special = {i for i, token in added.items() if token.special} | {*tokenizer.all_special_ids}
        self._special, self._added = special - own, {*added} - own
        texts = sorted(map(str, tokenizer.convert_ids_to_tokens(sorted(self._special))), key=len)
        self._special_text = re.compile("|".join(map(re.escape, reversed(texts))) or r"(?!)")
        self._rows, self._tokens, self._labelled = Counter[str](), Counter[str](), Counter[str]()
        self._longest = self._cut = 0
        self._examples: list[LintExample] = []

    def encode(self, index: int, record: Record, source: RowSource) -> EncodedRow | None:
        """Encode and count a row; return None, and note a problem, if the template refuses it.

        Raises:
            InputError: There is no chat template.
        """
        self._rows[_source_name(source)] += 1
        try:
            row = encode(
                self._tokenizer,
                record,
                self._loss,
                template=self._template,
                check_prompt=False,
                every_answer=_source_name(source) == "cache",
            )
        except InputError as error:
            if not self._tokenizer.chat_template:
                raise
            self.problems.append(LintProblem(index, str(error), "turns-refused"))
            return None
        self._longest = max(self._longest, len(row.ids))
        return row

    def check(self, index: int, record: Record, source: RowSource, row: EncodedRow) -> None:
        """Check a row that `encode` returned, and count the tokens that training keeps of it."""
        name = _source_name(source)
        self.problems += [
            LintProblem(index, reason, check) for check, reason in self._problems(record, name, row)
        ]
        short = row.cut(self._max_length)
        self._tokens[name] += len(short.ids)
        self._labelled[name] += sum(short.mask)
        self._cut += len(short.ids) < len(row.ids)
        if sum(example.source == name for example in self._examples) < self._shown:
            edges = {edge for span in short.spans for edge in span}
            bounds = pairwise(sorted({0, len(short.ids), *edges}))
            parts = tuple((self._text(short.ids[i:j]), short.mask[i]) for i, j in bounds)
            self._examples.append(LintExample(index, name, parts))

    def report(self) -> LintReport:
        """Return the counts and problems of all rows so far."""
        return LintReport(
            rows=dict(sorted(self._rows.items())),
            tokens=dict(sorted(self._tokens.items())),
            labelled=dict(sorted(self._labelled.items())),
            longest=self._longest,
            cut=self._cut,
            problems=tuple(self.problems),
            examples=tuple(self._examples),
        )

    def _problems(self, record: Record, source: str, row: EncodedRow) -> Iterator[tuple[str, str]]:
        """Yield the check's name and the reason of each problem of a row."""
        short = row.cut(self._max_length)
        if len(short.ids) < len(row.ids) and not self._truncate:
            yield "too-long", f"it has {len(row.ids)} tokens, more than {self._max_length}"
        yield from self._token_problems(record, source, row, short)
        yield from self._prompt_problems(record, row)
        yield from self._answer_problems(record, source, row)
        if any(row.mask) and not any(short.mask):
            yield "nothing-labelled", f"no answer token is left within {self._max_length} tokens"

    def _token_problems(
        self, record: Record, source: str, row: EncodedRow, short: EncodedRow
    ) -> Iterator[tuple[str, str]]:
        text = "".join(message.content for message in record.messages)
        prompt = "".join(message.content for message in record.prompt)
        if source == "task" and self._names and not any(name in prompt for name in self._names):
            yield "token-missing", f"a task row does not name {' or '.join(self._names)}"
        for token, token_id in self._ids.items():
            named = text.count(token)
            whole, left = (encoded.ids.count(token_id) for encoded in (row, short))
            if source == "cache":
                if named or whole:
                    yield "pair-names-token", f"a pair names {token}"
                continue
            if source == "contrast" and token in record.answer:
                yield "pair-names-token", f"the answer of a contrast row names {token}"
            if whole != named:
                yield (
                    "token-lost",
                    f"{token} is named {named} times, and {whole} are left after the chat template "
                    "and the tokenizer",
                )
            elif left != named:
                yield (
                    "token-cut",
                    f"{token} is named {named} times, and {left} are left after truncation",
                )

    def _prompt_problems(self, record: Record, row: EncodedRow) -> Iterator[tuple[str, str]]:
        rendered = self._text(row.ids)
        for message in record.prompt:
            content = message.content.strip()
            if content not in rendered:
                # A tokenizer may normalize the text, so the rendered text decides.
                rendered = render_text(self._tokenizer, [m.as_dict() for m in record.messages])
            if content not in rendered:
                yield "turn-lost", f"the chat template leaves out or changes {content[:_EXCERPT]!r}"
            if special := self._special_in(content):
                yield (
                    "special-in-turn",
                    f"the {message.role} turn holds the control token {special}, which the model "
                    "would read as one: remove it from the text, or drop the row",
                )
        bos = self._tokenizer.bos_token_id
        if bos is not None and row.ids[:2] == [bos, bos]:
            yield "two-beginnings", f"it begins with {self._tokenizer.bos_token} twice"
        shared = row.shared
        if shared < len(row.prompt_ids):
            begin = max(0, shared - 3)
            prompt = self._text(row.prompt_ids[begin:])
            trained = self._text(row.ids[begin : len(row.prompt_ids) + 3])
            yield (
                "prompt-differs",
                f"the model is asked with {prompt[:_EXCERPT]!r}, and trained on "
                f"{trained[:_EXCERPT]!r}: tokens merge where the answer begins, or the chat "
                f"template writes the prompt differently when an answer follows: {self._advice}",
            )

    @cached_property
    def _advice(self) -> str:
        return prompt_advice(self._tokenizer)

    def _special_in(self, content: str) -> str | None:
        """Return the first text in a turn that the tokenizer reads as a control token."""
        match = self._special_text.search(content)
        if match is None:
            return None
        ids = self._tokenizer.encode(content, add_special_tokens=False)
        return match[0] if self._special.intersection(ids) else None

    def _answer_problems(
        self, record: Record, source: str, row: EncodedRow
    ) -> Iterator[tuple[str, str]]:
        answers = [m.content for m in record.messages if m.role == "assistant"]
        spans = row.spans
        expected = answers
        if self._loss != "generation-marks":
            expected = answers[-len(spans) :] if source == "cache" else answers[-1:]
        if not spans:
            yield "nothing-labelled", "no token is labeled"
            return
        if len(spans) != len(expected):
            yield (
                "answer-differs",
                f"{len(spans)} stretches of tokens are labeled, and the row has "
                f"{len(expected)} answers",
            )
            return
        for (begin, end), answer in zip(spans, expected, strict=True):
            span = row.ids[begin:end]
            end_of_turn = self._end_of_turn(span)
            body = self._text(span[:end_of_turn]).strip()
            if body != answer.strip() and self._normal(body) != self._normal(answer):
                yield (
                    "answer-differs",
                    f"the answer's tokens do not decode back to the answer: {body[:_EXCERPT]!r} "
                    f"instead of {answer.strip()[:_EXCERPT]!r}",
                )
            elif end_of_turn is None:
                yield (
                    "end-not-labelled",
                    "the answer's end-of-turn token is not labeled. If the chat template writes "
                    "none, append {% if messages[-1].role == 'assistant' %}END{% endif %} to "
                    "tokenizer.chat_template and save the tokenizer, with the token that ends the "
                    "model's answers (eos_token_id in generation_config.json) for END",
                )

    def _end_of_turn(self, span: Sequence[int]) -> int | None:
        """Return the index of the end-of-turn token: the first special id, else the first added."""
        for ends in (self._special, self._added):
            for index, token_id in enumerate(span):
                if token_id in ends:
                    return index
        return None

    def _normal(self, text: str) -> str:
        """Return a text as the tokenizer normalizes it, such as to NFC."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:  # a tokenizer in Python does not tell how it normalizes
            return unicodedata.normalize("NFKC", text.strip())
        normalizer = backend.normalizer
        return text.strip() if normalizer is None else str(normalizer.normalize_str(text.strip()))

    def _text(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))


def _source_name(source: RowSource) -> str:
    if isinstance(source, bool):
        return "task" if source else "cache"
    return source
