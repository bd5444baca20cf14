"""The checks of one row: is the token whole, is the loss on the answer, would it be asked so?

By name:

    too-long             the row has more tokens than training keeps
    token-missing        a task row does not name its token
    token-lost           the chat template or the tokenizer leaves fewer or more of it
    token-cut            truncation leaves fewer of it
    pair-names-token     a pair names it
    turns-refused        the chat template refuses the turns, such as a system turn
    turn-lost            the chat template leaves out or changes what a turn says
    prompt-differs       the model is asked with other tokens than those it was trained on
    two-beginnings       the row begins with the beginning-of-sequence token twice
    nothing-labelled     no token is labelled, or none is left after truncation
    answer-differs       the labelled tokens are not those of the answer
    end-not-labelled     the answer's end-of-turn token is not labelled: nothing teaches to stop
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from delia_data.errors import InputError
from delia_data.records import Record
from delia_data.tokens.adding import DEFAULT_TOKEN
from delia_data.tokens.encoding import Labelled, Loss, label, refusals_in_one_line
from delia_data.tokens.marks import marked_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SHOWN: Final = 60
"""Characters of a text in a reason."""


class RowChecks:
    """The checks of one row, for a tokenizer and settings."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        ids: dict[str, int],
        max_length: int | None,
        truncate: bool,
        loss: Loss,
    ) -> None:
        """Take what the checks depend on.

        Args:
            tokenizer: The tokenizer, with the tokens added.
            ids: The special tokens and their ids.
            max_length: Tokens that training keeps of a row; all when not given.
            truncate: Whether a longer row is shortened; otherwise it is a problem.
            loss: How training tells the answer's tokens from the others.
        """
        self.tokenizer, self.ids, self.loss = tokenizer, ids, loss
        self.max_length, self.truncate = max_length, truncate
        own = set(ids.values())
        added = tokenizer.added_tokens_decoder
        marks = {i for i, token in added.items() if token.special} | {*tokenizer.all_special_ids}
        self.special, self.added = marks - own, {*added} - own

    def problems(
        self, record: Record, is_task: bool, labelled: Labelled
    ) -> Iterator[tuple[str, str]]:
        """Each problem of a row: the check's name, and the reason."""
        kept = labelled.cut(self.max_length)
        if len(kept.ids) < len(labelled.ids) and not self.truncate:
            yield "too-long", f"it has {len(labelled.ids)} tokens, more than {self.max_length}"
        yield from self._token(record, labelled, kept) if is_task else self._pair(record, labelled)
        yield from self._prompt(record, labelled)
        yield from self._answers(record, labelled)
        if any(labelled.mask) and not any(kept.mask):
            yield "nothing-labelled", f"no answer token is left within {self.max_length} tokens"

    def _token(
        self, record: Record, labelled: Labelled, kept: Labelled
    ) -> Iterator[tuple[str, str]]:
        text = "".join(message.content for message in record.messages)
        asked = "".join(message.content for message in record.prompt)
        if self.ids and not any(token in asked for token in self.ids):
            yield "token-missing", f"a task row does not name {' or '.join(self.ids)}"
        for token, token_id in self.ids.items():
            named, whole = text.count(token), labelled.ids.count(token_id)
            left = kept.ids.count(token_id)
            told = f"{token} is named {named} times, and {{}} are left after"
            if whole != named:
                yield "token-lost", told.format(whole) + " the chat template and the tokenizer"
            elif left != named:
                yield "token-cut", told.format(left) + " truncation"

    def _pair(self, record: Record, labelled: Labelled) -> Iterator[tuple[str, str]]:
        text = "".join(message.content for message in record.messages)
        for token, token_id in self.ids.items():
            if token in text or token_id in labelled.ids:
                yield "pair-names-token", f"a pair names {token}"

    def _prompt(self, record: Record, labelled: Labelled) -> Iterator[tuple[str, str]]:
        turns = [message.as_dict() for message in record.messages]
        with refusals_in_one_line(self.tokenizer, turns):
            text = str(self.tokenizer.apply_chat_template(turns, tokenize=False))
        for message in record.prompt:
            if message.content.strip() not in text:
                said = f"{message.content.strip()[:_SHOWN]!r}"
                yield "turn-lost", f"the chat template leaves out or changes {said}"
        bos = self.tokenizer.bos_token_id
        if bos is not None and labelled.ids[:2] == (bos, bos):
            yield "two-beginnings", f"it begins with {self.tokenizer.bos_token} twice"
        shared = labelled.shared
        if shared < len(labelled.prompt_ids):
            asked = self._text(labelled.prompt_ids[max(0, shared - 3) :])
            trained = self._text(labelled.ids[max(0, shared - 3) : len(labelled.prompt_ids) + 3])
            yield (
                "prompt-differs",
                f"the model is asked with {asked[:_SHOWN]!r}, and trained on {trained[:_SHOWN]!r}: "
                "tokens merge where the answer begins, or the chat template writes the prompt "
                "differently when an answer follows",
            )

    def _answers(self, record: Record, labelled: Labelled) -> Iterator[tuple[str, str]]:
        spoken = [m.content for m in record.messages if m.role == "assistant"]
        expected = spoken if self.loss == "generation-marks" else spoken[-1:]
        if not labelled.spans:
            yield "nothing-labelled", "no token is labelled"
            return
        if len(labelled.spans) != len(expected):
            yield (
                "answer-differs",
                f"{len(labelled.spans)} stretches of tokens are labelled, and the row has "
                f"{len(expected)} answers",
            )
            return
        for (begin, end), answer in zip(labelled.spans, expected, strict=True):
            span = labelled.ids[begin:end]
            closing = self._closing(span)
            body = self._text(span[:closing]).strip()
            if body != answer.strip():
                yield (
                    "answer-differs",
                    f"the answer's tokens do not decode back to the answer: {body[:_SHOWN]!r} "
                    f"instead of {answer.strip()[:_SHOWN]!r}",
                )
            elif closing is None:
                yield "end-not-labelled", "the answer's end-of-turn token is not labelled"

    def _closing(self, span: Sequence[int]) -> int | None:
        """Place of the end-of-turn token: the first special one, else the first added one."""
        for ends in (self.special, self.added):
            for place, token_id in enumerate(span):
                if token_id in ends:
                    return place
        return None

    def parts(self, kept: Labelled) -> tuple[tuple[str, bool], ...]:
        """A row's text in pieces, each with whether the loss is taken on it."""
        edges = sorted({0, len(kept.ids), *(edge for span in kept.spans for edge in span)})
        return tuple(
            (self._text(kept.ids[begin:end]), kept.mask[begin]) for begin, end in pairwise(edges)
        )

    def _text(self, ids: Sequence[int]) -> str:
        decoded: str = self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)
        return decoded


@dataclass(frozen=True, slots=True)
class LintProblem:
    """One row that training would get wrong.

    Attributes:
        row: Index of the row; -1 where it is the tokenizer that is wrong.
        reason: What is wrong, in words.
        check: Name of the check that found it, as `delia_data.tokens.lint` lists them.
    """

    row: int
    reason: str
    check: str


@dataclass(frozen=True, slots=True)
class LintExample:
    """A row as training sees it.

    Attributes:
        row: Index of the row.
        source: `"task"` or `"cache"`.
        parts: Its text in pieces, each with whether the loss is taken on it.
    """

    row: int
    source: str
    parts: tuple[tuple[str, bool], ...]


@dataclass(frozen=True, slots=True)
class LintReport:
    """What a lint counted and found.

    Attributes:
        rows: Rows by source (`"task"`, `"cache"`).
        tokens: Tokens that training keeps, by source.
        labelled: Those of them that the loss is taken on, by source.
        longest: Tokens of the longest row, before truncation.
        cut: Rows that truncation shortens.
        problems: What is wrong, in the order of the rows.
        examples: The first task rows and the first pairs, as many as were asked for.
    """

    rows: dict[str, int]
    tokens: dict[str, int]
    labelled: dict[str, int]
    longest: int
    cut: int
    problems: tuple[LintProblem, ...]
    examples: tuple[LintExample, ...]

    def as_dict(self) -> dict[str, Any]:
        """Give the report as plain values; problems are counted by check as well."""
        found = Counter(problem.check for problem in self.problems)
        return {**asdict(self), "problems_by_check": dict(sorted(found.items()))}


def lint(
    rows: Iterable[tuple[Record, bool]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    token: str = DEFAULT_TOKEN,
    max_length: int | None = None,
    loss: Loss = "prompt-completion",
) -> list[LintProblem]:
    """Prove that the token is whole and the loss on the answers alone (design, invariant 8).

    Rows that truncation shortens are sound as long as the token and some of the answer are left;
    `lint_rows` counts them, and can refuse them.

    Args:
        rows: Records, each with whether it is a task row (else it is a pair).
        tokenizer: The tokenizer, with the token added.
        token: The special token.
        max_length: Tokens that training keeps of a row; all when not given.
        loss: How training tells the answer's tokens from the others.

    Returns:
        The problems found, in the order of the rows; none means that the data is sound.

    Raises:
        InputError: There is no chat template, or it has no generation marks and `loss` needs them.
    """
    report = lint_rows(rows, tokenizer, tokens=(token,), max_length=max_length, loss=loss)
    return list(report.problems)


def lint_rows(
    rows: Iterable[tuple[Record, bool]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    tokens: Sequence[str] = (DEFAULT_TOKEN,),
    max_length: int | None = None,
    truncate: bool = True,
    loss: Loss = "prompt-completion",
    examples: int = 0,
) -> LintReport:
    """Lint rows, and count what training will compute.

    Args:
        rows: Records, each with whether it is a task row (else it is a pair).
        tokenizer: The tokenizer, with the tokens added.
        tokens: The special tokens; every task row must name one of them, where there are any.
        max_length: Tokens that training keeps of a row; all when not given.
        truncate: Whether a longer row is shortened; otherwise it is a problem.
        loss: How training tells the answer's tokens from the others.
        examples: How many task rows, and how many pairs, are shown.

    Raises:
        InputError: There is no chat template, or it has no generation marks and `loss` needs them.
    """
    template = marked_template(tokenizer) if loss == "generation-marks" else None
    ids = {token: tokenizer.encode(token, add_special_tokens=False) for token in tokens}
    split = [
        LintProblem(-1, f"{token} is {len(of)} ids: add it to the tokenizer first", "token-lost")
        for token, of in ids.items()
        if len(of) != 1
    ]
    row_lint = RowChecks(
        tokenizer, {t: of[0] for t, of in ids.items() if len(of) == 1}, max_length, truncate, loss
    )
    counts: dict[str, Counter[str]] = {name: Counter() for name in ("rows", "tokens", "labelled")}
    longest = cut = 0
    problems, shown = list(split), list[LintExample]()
    for index, (record, is_task) in enumerate(rows if not split else ()):
        source = "task" if is_task else "cache"
        counts["rows"][source] += 1
        try:
            labelled = label(tokenizer, record, loss, template=template)
        except InputError as error:
            if not tokenizer.chat_template:
                raise
            problems.append(LintProblem(index, str(error), "turns-refused"))
            continue
        problems += [
            LintProblem(index, reason, check)
            for check, reason in row_lint.problems(record, is_task, labelled)
        ]
        kept = labelled.cut(max_length)
        counts["tokens"][source] += len(kept.ids)
        counts["labelled"][source] += sum(kept.mask)
        longest, cut = max(longest, len(labelled.ids)), cut + (len(kept.ids) < len(labelled.ids))
        if counts["rows"][source] <= examples:
            shown.append(LintExample(index, source, row_lint.parts(kept)))
    return LintReport(
        rows=dict(sorted(counts["rows"].items())),
        tokens=dict(sorted(counts["tokens"].items())),
        labelled=dict(sorted(counts["labelled"].items())),
        longest=longest,
        cut=cut,
        problems=tuple(problems),
        examples=tuple(shown),
    )
