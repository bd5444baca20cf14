"""Proof on the tokenised data: the token is whole, and the loss is on the answers alone.

Every row is put through the chat template as training does it, and the labelled tokens are
decoded back; `delia_data.tokens.row_checks` lists what is looked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from delia_data.errors import InputError
from delia_data.records import Record
from delia_data.tokens.adding import DEFAULT_TOKEN
from delia_data.tokens.labels import Loss, label
from delia_data.tokens.marks import marked_template
from delia_data.tokens.row_checks import RowChecks

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class LintProblem:
    """One row that training would get wrong.

    Attributes:
        row: Index of the row; -1 where it is the tokenizer that is wrong.
        reason: What is wrong, in words.
        check: Name of the check that found it, as `delia_data.tokens.row_checks` lists them.
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
