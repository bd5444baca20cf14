"""Labeled tokens in the chat formats of several model families."""

from __future__ import annotations

import pytest
from chat_models import FAMILIES, LLAMA2, family, shipped_template
from transformers import PreTrainedTokenizerBase

from delia_data.errors import InputError
from delia_data.records import Message, Record
from delia_data.tokens import (
    LOSSES,
    EncodedRow,
    Loss,
    add_token_to_tokenizer,
    encode,
    has_generation_marks,
    lint,
    marked_template,
)

pytest.importorskip("trl")

ANSWER = "{'thought': 'It is blue, not green.', 'hallucination': 'yes'}"
TASK = Record.pair("Is the sky green? Answer as <sep> asks.", ANSWER)
PAIR = Record.pair("Who wrote it?\n\nSay it briefly.", "An answer of two lines,\n\nthe second.")
CHAT = Record(
    (
        Message("user", "Who?"),
        Message("assistant", "A first answer."),
        Message("user", "And now?"),
        Message("assistant", "A second one."),
    )
)
SYSTEM = Record.pair("Who?", "An answer.", system="Be brief.")
ENDS = {
    "smollm2": "<|im_end|>\n",
    "qwen2.5": "<|im_end|>\n",
    "llama-2": " </s>",
    "llama-2-without-system": "</s>",
    "gemma": "<end_of_turn>\n",
}
REFUSE_SYSTEM = {"gemma", "llama-2-without-system"}
MARKED = [name for name in FAMILIES if name != "llama-2-without-system"]


def texts(tokenizer: PreTrainedTokenizerBase, row: EncodedRow) -> list[str]:
    """Return the text of each run of labeled tokens."""
    return [
        tokenizer.decode(list(row.ids[begin:end]), clean_up_tokenization_spaces=False)
        for begin, end in row.spans
    ]


def tokenizer_of(name: str) -> PreTrainedTokenizerBase:
    tokenizer = family(name)
    add_token_to_tokenizer(tokenizer)
    return tokenizer


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("record", [TASK, PAIR], ids=["task", "pair"])
def test_the_prompt_by_itself_leaves_the_answer_and_its_end(name: str, record: Record) -> None:
    tokenizer = tokenizer_of(name)
    row = encode(tokenizer, record)
    assert [text.lstrip(" ") for text in texts(tokenizer, row)] == [record.answer + ENDS[name]]
    assert row.shared == len(row.prompt_ids)


@pytest.mark.parametrize("name", MARKED)
@pytest.mark.parametrize("record", [TASK, PAIR, CHAT], ids=["task", "pair", "chat"])
def test_generation_marks_leave_every_answer_and_its_end(name: str, record: Record) -> None:
    tokenizer = tokenizer_of(name)
    answers = [m.content for m in record.messages if m.role == "assistant"]
    found = texts(tokenizer, encode(tokenizer, record, "generation-marks"))
    assert [text.lstrip(" \n") for text in found] == [text + ENDS[name] for text in answers]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", MARKED)
def test_rows_of_every_format_are_sound(name: str, loss: Loss) -> None:
    rows = [(TASK, True), (PAIR, False), (CHAT, False)]
    rows += [] if name in REFUSE_SYSTEM else [(SYSTEM, False)]
    assert lint(rows, tokenizer_of(name), loss=loss) == []


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", sorted(REFUSE_SYSTEM))
def test_refused_system_turn_is_a_problem(name: str, loss: Loss) -> None:
    tokenizer = tokenizer_of(name)
    if loss == "generation-marks" and name not in MARKED:
        with pytest.raises(InputError, match="has no generation marks"):
            lint([(SYSTEM, False)], tokenizer, loss=loss)
        return
    (problem,) = lint([(SYSTEM, False)], tokenizer, loss=loss)
    assert problem.check == "turns-refused"
    assert "refuses turns of system, user" in problem.reason
    assert "move the system turn's text into the user turn" in problem.reason
    assert "\n" not in problem.reason


def test_template_of_llama_2() -> None:
    tokenizer = tokenizer_of("llama-2")
    turns = [message.as_dict() for message in SYSTEM.messages]
    for template in (LLAMA2, marked_template(tokenizer)):
        text = tokenizer.apply_chat_template(turns, chat_template=template, tokenize=False)
        assert text == "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nWho? [/INST] An answer. </s>"


@pytest.mark.parametrize("name", ["qwen2_5", "gemma"])
def test_the_templates_that_trl_marks_are_found(name: str) -> None:
    tokenizer = family(name.replace("_", "."))
    assert not has_generation_marks(tokenizer.chat_template)
    assert marked_template(tokenizer) == shipped_template(f"{name}_training")


def test_a_template_with_marks_is_used_unchanged() -> None:
    tokenizer = family("gemma")
    tokenizer.chat_template = shipped_template("gemma_training") + "{# mine #}"
    assert marked_template(tokenizer) == tokenizer.chat_template


def test_an_unknown_template_is_refused() -> None:
    tokenizer = family("smollm2")
    tokenizer.chat_template = tokenizer.chat_template.replace("SmolLM", "Anything")
    with pytest.raises(InputError, match="none that writes the same is known"):
        marked_template(tokenizer)
    tokenizer.chat_template = None
    with pytest.raises(InputError, match="no chat template"):
        marked_template(tokenizer)


def test_an_unknown_loss_is_refused() -> None:
    with pytest.raises(InputError, match="use one of prompt-completion, generation-marks"):
        encode(family("smollm2"), PAIR, "everything")  # type: ignore[arg-type]


def test_spans_by_hand() -> None:
    row = EncodedRow([1, 2, 3, 4, 5], [False, True, True, False, True], [])
    assert row.spans == [(1, 3), (4, 5)]
    assert row.cut(2) == EncodedRow([1, 2], [False, True], [])
    assert EncodedRow([], [], []).spans == []
    assert EncodedRow([1, 2, 3], [False] * 3, [1, 2, 9]).shared == 2
