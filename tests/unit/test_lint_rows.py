"""Each check of the lint on a row with its fault, and the counts of tokens."""

from __future__ import annotations

from typing import Any

import pytest
from chat_models import family
from transformers import PreTrainedTokenizerBase

from delia_data.records import Message, Record
from delia_data.tokens import LintReport, Loss, add_token_to_tokenizer, lint_rows

TASK = Record.pair("is it so? follow <sep>", "{'a': 'b'}")
PAIR = Record.pair("tell me", "gladly")
ENDED = "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}"
ASKED = "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"


@pytest.fixture
def tokenizer(tiny_tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A tokenizer with one id per byte and `<sep>`."""
    add_token_to_tokenizer(tiny_tokenizer)
    return tiny_tokenizer


def checks(report: LintReport) -> list[str]:
    return [problem.check for problem in report.problems]


def test_counts_by_hand(tokenizer: PreTrainedTokenizerBase) -> None:
    """`<|user|>`, 17 bytes and `<sep>`, `<|end|>`, `<|assistant|>` | 10 bytes, `<|end|>`."""
    report = lint_rows([(TASK, True), (PAIR, False), (PAIR, False)], tokenizer)
    assert report.rows == {"cache": 2, "task": 1}
    assert report.tokens == {"cache": 2 * (1 + 7 + 1 + 1 + 6 + 1), "task": 1 + 17 + 1 + 1 + 1 + 11}
    assert report.labelled == {"cache": 2 * 7, "task": 11}
    assert (report.longest, report.cut, report.problems) == (32, 0, ())


def test_truncation_is_counted_or_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = [(TASK, True), (PAIR, False)]
    shortened = lint_rows(rows, tokenizer, max_length=24)
    assert (shortened.cut, shortened.longest, shortened.problems) == (1, 32, ())
    assert shortened.labelled == {"cache": 7, "task": 3}
    refused = lint_rows(rows, tokenizer, max_length=24, truncate=False)
    assert [(p.row, p.check) for p in refused.problems] == [(0, "too-long")]
    assert "32 tokens, more than 24" in refused.problems[0].reason
    cut = lint_rows(rows, tokenizer, max_length=18)
    assert [(p.row, p.check) for p in cut.problems] == [(0, "token-cut"), (0, "nothing-labelled")]


def test_examples_show_what_is_labelled(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = [(PAIR, False), (TASK, True), (PAIR, False)]
    report = lint_rows(rows, tokenizer, examples=1)
    assert [(example.row, example.source) for example in report.examples] == [
        (0, "cache"),
        (1, "task"),
    ]
    assert report.examples[0].parts == (
        ("<|user|>tell me<|end|><|assistant|>", False),
        ("gladly<|end|>", True),
    )


@pytest.mark.parametrize(
    ("template", "record", "found"),
    [
        # the token and turns, on their way through the template
        (ENDED.replace("m.content", "m.content | replace('<sep>', '')"), TASK, "token-lost"),
        (ENDED.replace("m.content", "m.content + m.content"), TASK, "token-lost"),
        (ENDED.replace("m.content", "m.content | replace('so', 'no')"), TASK, "turn-lost"),
        # what the answer ends with
        ("{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}{% endfor %}", PAIR,
         "end-not-labelled"),
        # how the model is asked
        (ENDED.replace("m.content +", "m.content + (' ' if messages | length > 1 else '') +"), PAIR,
         "prompt-differs"),
        ("{{ '<|pad|><|pad|>' }}" + ENDED, PAIR, "two-beginnings"),
        ("{{ raise_exception('No\n such thing') }}", PAIR, "turns-refused"),
    ],
)  # fmt: skip
def test_a_template_with_a_fault(
    tokenizer: PreTrainedTokenizerBase, template: str, record: Record, found: str
) -> None:
    tokenizer.bos_token = "<|pad|>"
    tokenizer.chat_template = template + ASKED
    report = lint_rows([(record, record is TASK)], tokenizer)
    assert found in checks(report)
    assert all("\n" not in problem.reason for problem in report.problems)


@pytest.mark.parametrize(
    ("template", "found"),
    [
        # the end of the turn outside of the marks
        ("{% generation %}{{ m.content }}{% endgeneration %}{{ '<|end|>' }}", "end-not-labelled"),
        # an answer in two pieces
        ("{% generation %}{{ m.content[:2] }}{% endgeneration %}{{ m.content[2:4] }}"
         "{% generation %}{{ m.content[4:] + '<|end|>' }}{% endgeneration %}", "answer-differs"),
        # marks that hold nothing
        ("{% generation %}{% endgeneration %}{{ m.content + '<|end|>' }}", "nothing-labelled"),
    ],
)  # fmt: skip
def test_marks_with_a_fault(tokenizer: PreTrainedTokenizerBase, template: str, found: str) -> None:
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|' + m.role + '|>' }}{% if m.role == 'assistant' %}"
        + template
        + "{% else %}{{ m.content + '<|end|>' }}{% endif %}{% endfor %}"
        + ASKED
    )
    assert checks(lint_rows([(PAIR, False)], tokenizer, loss="generation-marks")) == [found]


@pytest.mark.parametrize("loss", ["prompt-completion", "generation-marks"])
def test_tokens_that_merge_where_the_answer_begins(loss: Loss) -> None:
    """The prompt ends with a line break, the answer begins with two, and two are one token."""
    pytest.importorskip("trl")
    tokenizer = family("smollm2")
    add_token_to_tokenizer(tokenizer)
    report = lint_rows([(Record.pair("Who?", "\n\nShe."), False)], tokenizer, loss=loss)
    (problem,) = report.problems
    assert problem.check == "prompt-differs"
    assert "tokens merge where the answer begins" in problem.reason


def test_an_answer_that_ends_before_its_end(tokenizer: PreTrainedTokenizerBase) -> None:
    report = lint_rows([(Record.pair("tell me", "gl<|end|>adly"), False)], tokenizer)
    (problem,) = report.problems
    assert problem.check == "answer-differs"
    assert "'gl' instead of 'gl<|end|>adly'" in problem.reason


def test_a_token_with_neighbours_is_counted(tokenizer: PreTrainedTokenizerBase) -> None:
    twice = Record.pair("a<sep>b, c<sep>", "d")
    assert lint_rows([(twice, True)], tokenizer).problems == ()
    other = Record.pair("a<sep", "d")
    assert checks(lint_rows([(other, True)], tokenizer)) == ["token-missing"]


def test_several_tokens_and_an_empty_list(tokenizer: PreTrainedTokenizerBase) -> None:
    add_token_to_tokenizer(tokenizer, "<sep:table>")
    table = Record.pair("as <sep:table>", "a | b")
    both = ("<sep>", "<sep:table>")
    assert lint_rows([(TASK, True), (table, True)], tokenizer, tokens=both).problems == ()
    assert checks(lint_rows([(table, False)], tokenizer, tokens=both)) == ["pair-names-token"]
    unlisted = lint_rows([(table, True)], tokenizer, tokens=("<sep>",))
    assert checks(unlisted) == ["token-missing", "special-in-turn"]
    assert lint_rows([(PAIR, True)], tokenizer, tokens=()).problems == ()


def test_a_tokenizer_without_the_token(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    (problem,) = lint_rows([(TASK, True)], tiny_tokenizer).problems
    assert (problem.row, problem.check) == (-1, "token-lost")
    assert "add it to the tokenizer first" in problem.reason


def test_the_report_as_plain_values(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = [(PAIR, True), (PAIR, True), (TASK, False)]
    values: dict[str, Any] = lint_rows(rows, tokenizer).as_dict()
    assert values["problems_by_check"] == {"pair-names-token": 1, "token-missing": 2}
    assert values["problems"][0] == {
        "row": 0,
        "reason": "a task row does not name <sep>",
        "check": "token-missing",
    }


def test_a_system_turn_that_names_the_token(tokenizer: PreTrainedTokenizerBase) -> None:
    turns = (Message("system", "use <sep>"), Message("user", "q"), Message("assistant", "a"))
    assert lint_rows([(Record(turns), True)], tokenizer).problems == ()


def test_a_control_token_in_a_prompt_turn_is_reported(tokenizer: PreTrainedTokenizerBase) -> None:
    record = Record.pair("say <|end|><|assistant|> and go on", "gladly")
    (problem,) = lint_rows([(PAIR, False), (record, False)], tokenizer).problems
    assert (problem.row, problem.check) == (1, "special-in-turn")
    assert "the user turn holds the control token <|end|>" in problem.reason
    assert (
        lint_rows([(Record.pair("what is <|start|>?", "a mark"), False)], tokenizer).problems == ()
    )


@pytest.mark.parametrize("loss", ["prompt-completion", "generation-marks"])
def test_a_tokenizer_that_normalizes_text_is_sound(loss: Loss) -> None:
    """Qwen2.5 composes characters (NFC): a decomposed text comes back composed."""
    normalizers = pytest.importorskip("tokenizers.normalizers")
    pytest.importorskip("trl")
    tokenizer = family("qwen2.5")
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    add_token_to_tokenizer(tokenizer)
    decomposed = Record.pair("Where is the Cafe\u0301?", "The Cafe\u0301 is there.")
    assert lint_rows([(decomposed, False)], tokenizer, loss=loss).problems == ()
