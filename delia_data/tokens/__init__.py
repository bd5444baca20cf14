"""Add the special token, encode rows with the chat template, and lint them.

A new token (`<sep>`) stands for the output format and learns its meaning (paper, section 3.1). Only
answers have a loss; their tokens depend on the chat template.
"""

from __future__ import annotations

from delia_data.tokens.adding import (
    DEFAULT_TOKEN,
    INITS,
    Init,
    add_token,
    add_token_to_tokenizer,
    split_tokens,
    token_sequence,
)
from delia_data.tokens.encoding import (
    LOSSES,
    EncodedRow,
    Loss,
    encode,
    render_ids,
    render_user_ids,
    thinking_note,
    thinks,
)
from delia_data.tokens.lint import Linter, LintProblem, LintReport, lint, lint_rows
from delia_data.tokens.marks import has_generation_marks, marked_template
from delia_data.tokens.template import (
    check_template_options,
    opened_reasoning,
    parse_assignments,
    set_template_options,
    split_reasoning,
    template_options,
    with_defaults,
)

__all__ = [
    "DEFAULT_TOKEN",
    "INITS",
    "LOSSES",
    "EncodedRow",
    "Init",
    "LintProblem",
    "LintReport",
    "Linter",
    "Loss",
    "add_token",
    "add_token_to_tokenizer",
    "check_template_options",
    "encode",
    "has_generation_marks",
    "lint",
    "lint_rows",
    "marked_template",
    "opened_reasoning",
    "parse_assignments",
    "render_ids",
    "render_user_ids",
    "set_template_options",
    "split_reasoning",
    "split_tokens",
    "template_options",
    "thinking_note",
    "thinks",
    "token_sequence",
    "with_defaults",
]
