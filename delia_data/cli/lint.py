"""`delia lint`: check that the token is a single id and that only answers have a loss."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from delia_data.cli._flags import argument, option
from delia_data.cli._options import TEMPLATE_OPTION_HELP
from delia_data.cli._output import AsJson, console, say, show_json, show_reading
from delia_data.errors import InputError, TokenError
from delia_data.models import DEFAULT_MODEL, load_tokenizer
from delia_data.tokens import (
    DEFAULT_TOKEN,
    LOSSES,
    LintReport,
    Loss,
    add_token_to_tokenizer,
    lint_rows,
    parse_assignments,
    split_tokens,
)
from delia_data.training.data import TrainingRows, open_training_rows

_PROBLEMS_SHOWN = 20


def command(
    mixture: str = argument(
        "Mixture folder, delia_mix:ratio-4, or rows: a file, folder, glob, URL or Hub id."
    ),
    model: str = option(
        DEFAULT_MODEL, "Embedded model's name, folder (delia prepare's too) or Hub id."
    ),
    template_option: list[str] | None = option(None, TEMPLATE_OPTION_HELP),
    loss: Loss = option(
        LOSSES[0],
        "How training finds the answers: by the prompt alone, or by the chat template's "
        "{% generation %} marks.",
    ),
    max_length: int | None = option(None, "Maximum tokens per row; no limit by default.", min=1),
    truncate: bool = option(
        False, "Cut longer rows instead of refusing them.", names=["--truncate"]
    ),
    token: list[str] | None = option(None, "Special token of rows without a manifest; repeatable."),
    show: int = option(0, "Number of rows of each source to show, labeled parts in [[ ]].", min=0),
    as_json: AsJson = False,
) -> None:
    """Check tokenized rows: the token is a single id, and only answers have a loss."""
    if truncate and max_length is None:
        raise InputError("--truncate cuts rows to --max-length tokens: give --max-length too")
    options = parse_assignments(template_option or (), "--template-option")
    tokenizer = load_tokenizer(model, options)
    rows = open_training_rows(mixture)
    tokens = _tokens(rows, token)
    for each in split_tokens(*tokens):
        add_token_to_tokenizer(tokenizer, each)
    report = lint_rows(
        rows.records(tokens),
        tokenizer,
        tokens=tokens,
        max_length=max_length,
        truncate=truncate,
        loss=loss,
        examples=show,
    )
    show_reading(mixture, rows.source.report.details())
    if as_json:
        show_json({"special_tokens": tokens, "loss": loss, **report.as_dict()})
    else:
        _print(report, rows, tokens, max_length)
    if report.problems:
        count, checked = len(report.problems), sum(report.rows.values())
        raise TokenError(
            f"{mixture}: {count} problem{'s' * (count != 1)} in {checked} rows: correct the rows"
        )


def _tokens(rows: TrainingRows, given: Sequence[str] | None) -> list[str]:
    """Return the tokens that task rows name: the manifest's if there is one, else those given."""
    tokens = rows.tokens
    if tokens is None:
        return list(given or [DEFAULT_TOKEN])
    if given and sorted(given) != sorted(tokens):
        raise TokenError(
            f"{rows.name} was mixed with {', '.join(tokens) or 'no token'}, and "
            f"{', '.join(given)} was given: leave --token out"
        )
    return tokens


def _print(
    report: LintReport, source: TrainingRows, tokens: Sequence[str], max_length: int | None
) -> None:
    for example in report.examples:
        console.print(Text(f"row {example.row}, {_NAMES[example.source]}:", style="bold"))
        shown = Text()
        for text, in_loss in example.parts:
            shown.append(f"[[{text}]]" if in_loss else text, style="green" if in_loss else "")
        console.print(shown, soft_wrap=True)
    shown_problems = report.problems[:_PROBLEMS_SHOWN]
    places = source.places({problem.row for problem in shown_problems})
    for problem in shown_problems:
        say(f"{places[problem.row]}: {problem.reason}")
    left = len(report.problems) - _PROBLEMS_SHOWN
    if left > 0:
        say(f"... and {left} more; --json has them all")
    for kind, rows in report.rows.items():
        total, labeled = report.tokens.get(kind, 0), report.labelled.get(kind, 0)
        say(f"{rows} {_NAMES[kind]}{'s' * (rows != 1)}: {total} tokens, {labeled} with a loss")
    cut = f"; rows of more than {max_length}: {report.cut}" if report.cut else ""
    say(f"longest row: {report.longest} tokens{cut}")
    if not report.problems:
        verb = "is always a single id" if len(tokens) == 1 else "are always single ids"
        single = f"{', '.join(tokens)} {verb}, " if tokens else ""
        rows = sum(report.rows.values())
        say(f"{rows} rows: {single}the labeled tokens are the answers and their ends")


_NAMES = {"task": "task row", "cache": "pair", "contrast": "contrast row"}
