"""All chat templates of TRL pass the lint, or are refused with working advice.

Tokenizers are small and have no model; the marks that a template writes are tokens of their own.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from chat_models import marked_tokenizer, shipped_template, shipped_templates
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from delia_data.engines import Completion, Request, Sampling
from delia_data.engines.local import decode_completion, generation_limit
from delia_data.errors import InputError
from delia_data.models import identify, load_tokenizer
from delia_data.records import Message, Record
from delia_data.tokens import (
    LintReport,
    add_token_to_tokenizer,
    lint_rows,
    parse_assignments,
    render_ids,
    set_template_options,
    split_reasoning,
    template_options,
    thinking_note,
    thinks,
    with_defaults,
)

pytest.importorskip("trl")

QUESTION = [{"role": "user", "content": "Who?"}]
ROWS = [
    (Record.pair("Who? Answer as <sep>.", "She did it."), True),
    (Record.pair("Why?", "Nobody knows."), False),
    (Record.pair("Why?", "Nobody knows.", system="Be brief."), False),
]


def made(name: str, **options: Any) -> PreTrainedTokenizerBase:
    tokenizer = marked_tokenizer(shipped_template(name))
    set_template_options(tokenizer, options)
    add_token_to_tokenizer(tokenizer)
    return tokenizer


def follow(advice: str, tokenizer: PreTrainedTokenizerBase) -> list[tuple[Record, bool]]:
    """Follow the advice of a message, and return the rows to lint again."""
    if option := re.search(r"--template-option (\S+)", advice):
        set_template_options(tokenizer, parse_assignments([option[1]], "--template-option"))
    elif taken := re.search(r"take (\S+) and the line break after it out of", advice):
        text = str(tokenizer.chat_template)
        tokenizer.chat_template = text.replace(taken[1] + "\\n", "").replace(taken[1] + "\n", "")
    elif added := re.search(r"append (\{%.*%\})", advice):
        tokenizer.chat_template += added[1].replace("END", "<|user|>")
    elif "move the system turn's text into the user turn" in advice:
        system = ROWS[2][0]
        query = f"{system.messages[0].content} {system.query}"
        return [*ROWS[:2], (Record.pair(query, system.answer), False)]
    else:
        raise AssertionError(f"no advice: {advice}")
    return ROWS


def labelled(report: LintReport) -> set[str]:
    return {text for example in report.examples for text, in_loss in example.parts if in_loss}


@pytest.mark.parametrize("name", shipped_templates())
def test_every_template_passes_or_is_refused_with_advice_that_works(name: str) -> None:
    tokenizer = made(name)
    report = lint_rows(ROWS, tokenizer, examples=3)
    if report.problems:
        rows = follow(report.problems[0].reason, tokenizer)
        report = lint_rows(rows, tokenizer, examples=3)
    assert report.problems == ()
    for text in labelled(report):
        answer = re.sub(r"[<\[].*", "", text, flags=re.DOTALL).strip()
        assert answer in {"She did it.", "Nobody knows."}


@pytest.mark.parametrize(
    ("name", "options", "opening"),
    [
        ("qwen3", {}, "<think>\n\n</think>\n\n"),
        ("qwen3", {"enable_thinking": False}, ""),
        ("gptoss", {"reasoning_effort": "low"}, "<|channel|>final<|message|>"),
        ("muse_glimmer", {}, " to=user<|message|>"),
    ],
)
def test_the_template_s_own_text_before_an_answer_is_not_labelled(
    name: str, options: dict[str, Any], opening: str
) -> None:
    tokenizer = made(name, **options)
    report = lint_rows(ROWS, tokenizer, examples=1)
    assert report.problems == ()
    (prompt, _), (answer, in_loss), *_ = report.examples[0].parts
    assert in_loss
    assert answer.startswith("She did it.")
    asked = [{"role": "user", "content": ROWS[0][0].query}]
    assert prompt == tokenizer.decode(render_ids(tokenizer, asked, generate=True)) + opening


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("qwen3", {}, True),
        ("qwen3", {"enable_thinking": False}, False),
        ("qwen3_5_think", {}, True),
        ("qwen3_5_nothink", {}, False),
        ("qwen3_5_nothink", {"enable_thinking": True}, True),
        ("gemma4", {}, False),
        ("gemma4", {"enable_thinking": True}, True),
        ("nemotron_3_nano", {}, True),
        ("deepseek_r1_distill", {}, True),
        ("gptoss", {}, True),
        ("muse_glimmer", {}, True),
        ("qwen2_5", {}, False),
        ("llama3", {}, False),
    ],
)
def test_a_model_that_thinks_is_recognised(
    name: str, options: dict[str, Any], expected: bool
) -> None:
    tokenizer = made(name, **options)
    assert thinks(tokenizer) is expected
    note = thinking_note(tokenizer) or ""
    assert ("asks the model to think" in note) is expected
    assert all(f"{option}={str(value).lower()}" in note for option, value in options.items())
    limit = generation_limit(tokenizer, Sampling(max_tokens=10)).max_tokens
    assert limit == (10 + 2048 if expected else 10)


def test_options_stay_with_a_tokenizer(tmp_path: Path, make_tiny_model: Any) -> None:
    tokenizer = made("qwen3", enable_thinking=False)
    tokenizer.save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    assert template_options(again) == {"enable_thinking": False}
    assert render_ids(again, QUESTION, generate=True) == render_ids(
        tokenizer, QUESTION, generate=True
    )
    changed = load_tokenizer(tmp_path, {"enable_thinking": True})
    assert template_options(changed) == {"enable_thinking": True}
    model = make_tiny_model()
    assert identify(model, again)["template_options"] == {"enable_thinking": False}
    assert "template_options" not in identify(model, made("qwen3"))


def test_other_programs_render_with_the_options_of_a_saved_template(tmp_path: Path) -> None:
    tokenizer = made("qwen3")
    tokenizer.chat_template = with_defaults(tokenizer.chat_template, {"enable_thinking": False})
    tokenizer.save_pretrained(tmp_path)
    plain = AutoTokenizer.from_pretrained(tmp_path)

    def asked(of: Any, **options: Any) -> str:
        return str(
            of.apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=True, **options)
        )

    assert asked(plain) == asked(made("qwen3"), enable_thinking=False)
    assert asked(plain, enable_thinking=True) == asked(made("qwen3"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"enable_thinkin": False}, "did you mean 'enable_thinking'"),
        ({"messages": []}, "give values by name"),
        ({"enable_thinking": object()}, "give values by name"),
    ],
)
def test_options_that_no_template_reads_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        set_template_options(made("qwen3"), options)


@pytest.mark.parametrize(
    ("text", "answer", "thoughts"),
    [
        ("<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>yes",
         "yes", "hm"),
        ("<|channel|>final<|message|>yes", "yes", ""),
        ("<|channel|>analysis<|message|>hm, so", "", "hm, so"),
        ("<|channel>thought\nhm<channel|>yes", "yes", "hm"),
        (" to=self<|message|>hm<|eom|><|start|>assistant to=user<|message|>yes", "yes", "hm"),
        ("[THINK]hm[/THINK]yes", "yes", "hm"),
        ("hm</think>yes", "yes", "hm"),
        ("<think>a</think>b<think>c</think>d", "bd", "a\nc"),
        ("no marks", "no marks", None),
    ],
)  # fmt: skip
def test_thoughts_are_separated(text: str, answer: str, thoughts: str | None) -> None:
    assert split_reasoning(text) == (answer, thoughts)


def complete(tokenizer: PreTrainedTokenizerBase, text: str, **sampling: Any) -> Completion:
    prompt = render_ids(tokenizer, QUESTION, generate=True)
    ids = tokenizer.encode(text, add_special_tokens=False)
    request = Request("a", (Message("user", "Who?"),), 0)
    return decode_completion(request, tokenizer, ids, "stop", prompt, Sampling(**sampling))


CASES = [
    ("qwen3", "<think>\nhm\n</think>\n\nShe.<|im_end|>"),
    ("qwen3_5_think", "hm\n</think>\n\nShe.<|im_end|>"),
    ("nemotron_3_nano", "hm\n</think>\n\nShe.<|im_end|>"),
    ("gptoss", "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final"
     "<|message|>She.<|return|>"),
    ("deepseek_r1_distill", "hm\n</think>\n\nShe.<｜end▁of▁sentence｜>"),
]  # fmt: skip


@pytest.mark.parametrize("own_rules", [False, True], ids=["marks", "parse_response"])
@pytest.mark.parametrize(("name", "text"), CASES, ids=[name for name, _ in CASES])
def test_answers_of_local_engines_have_no_thoughts(name: str, text: str, own_rules: bool) -> None:
    tokenizer = marked_tokenizer(shipped_template(name))
    if own_rules:
        from trl import add_response_schema

        add_response_schema(tokenizer)
    completion = complete(tokenizer, text)
    assert (completion.text, completion.thoughts) == ("She.", "hm")
    assert completion.reasoning
    assert completion.tokens > len("She.")
    cut = complete(tokenizer, text, max_tokens=2)
    assert (cut.text, cut.finish) == ("Sh", "length")


def test_thoughts_that_never_end_are_no_answer() -> None:
    tokenizer = marked_tokenizer(shipped_template("qwen3_5_think"))
    completion = complete(tokenizer, "hm, let me see<|im_end|>")
    assert (completion.text, completion.thoughts) == ("", "hm, let me see")
