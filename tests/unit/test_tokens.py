"""The special token is added once, and its embedding row is initialized."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from delia_data.errors import InputError, SettingsError, TokenError
from delia_data.records import Record
from delia_data.tokens import (
    add_token,
    add_token_to_tokenizer,
    encode,
    lint_rows,
    split_tokens,
    token_sequence,
)
from delia_data.training import TrainSettings

Make = Callable[..., PreTrainedModel]
MakeTokenizer = Callable[[], PreTrainedTokenizerBase]


def rows_of(model: PreTrainedModel) -> torch.Tensor:
    return model.get_input_embeddings().weight.detach().float()


def test_the_token_is_one_id_inside_text(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    token_id = add_token_to_tokenizer(tiny_tokenizer)
    ids = tiny_tokenizer.encode("follow the<sep>format", add_special_tokens=False)
    assert ids.count(token_id) == 1
    assert tiny_tokenizer.decode([token_id]) == "<sep>"


def test_adding_twice_changes_nothing(
    make_tiny_model: Make, tiny_tokenizer: PreTrainedTokenizerBase
) -> None:
    model = make_tiny_model()
    first = add_token(model, tiny_tokenizer)
    with torch.no_grad():
        model.get_input_embeddings().weight[first] = 7.0
    before = rows_of(model).clone()
    assert add_token(model, tiny_tokenizer) == first
    assert torch.equal(rows_of(model), before)


def test_a_saved_tokenizer_knows_its_token(
    tiny_tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    token_id = add_token_to_tokenizer(tiny_tokenizer)
    tiny_tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert add_token_to_tokenizer(again) == token_id
    assert len(again) == len(tiny_tokenizer)


def test_two_tokens_live_together(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    one, other = (add_token_to_tokenizer(tiny_tokenizer, t) for t in ("<sep:json>", "<sep:table>"))
    ids = tiny_tokenizer.encode("<sep:json><sep:table>", add_special_tokens=False)
    assert ids == [one, other]


def test_a_sequence_of_tokens_is_named_and_split() -> None:
    assert token_sequence("<a>", 1) == "<a>"
    assert token_sequence("<a>", 3) == "<a><a:2><a:3>"
    assert split_tokens("[b]", "<a><a:2><a:3>") == ("[b]", "<a>", "<a:2>", "<a:3>")
    for single in ("<a:2>", "<a><b>", "<a><a:3>", "a", "a:2", "x<y>z"):
        assert split_tokens(single) == (single,)
    for token, length in (("a", 2), ("<a>", 0), ("<a><b>", 2)):
        with pytest.raises(TokenError, match="name in brackets"):
            token_sequence(token, length)
    with pytest.raises(SettingsError, match="each once"):
        TrainSettings(token=("<a><a:2>", "<a:2>"))


def test_the_lint_wants_the_whole_sequence(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    name = token_sequence("<a>", 2)
    for token in split_tokens(name):
        add_token_to_tokenizer(tiny_tokenizer, token)

    def checks(text: str, source: str = "task") -> list[str]:
        row = (Record.pair(text, "yes"), source)
        report = lint_rows([row], tiny_tokenizer, tokens=[name])  # type: ignore[list-item]
        return [problem.check for problem in report.problems]

    assert checks(f"Is it even? {name}") == []
    assert checks("Is it even? <a>") == ["token-missing"]
    assert checks("Is it even? <a:2>", "cache") == ["pair-names-token"]


@pytest.mark.parametrize("token", ["a", "<|end|>", "<|user|>", "<|pad|>"])
def test_a_token_with_another_role_is_refused(
    tiny_tokenizer: PreTrainedTokenizerBase, token: str
) -> None:
    size = len(tiny_tokenizer)
    with pytest.raises(TokenError, match="another role"):
        add_token_to_tokenizer(tiny_tokenizer, token)
    assert len(tiny_tokenizer) == size


@pytest.mark.parametrize("token", ["", " <sep>", "two words"])
def test_a_token_that_is_no_word_is_refused(
    tiny_tokenizer: PreTrainedTokenizerBase, token: str
) -> None:
    with pytest.raises(TokenError, match="empty or has spaces"):
        add_token_to_tokenizer(tiny_tokenizer, token)


def test_normal_has_the_mean_and_scale_of_the_rows(
    make_tiny_model: Make, make_tiny_tokenizer: MakeTokenizer
) -> None:
    model = make_tiny_model()
    before = rows_of(model).clone()
    drawn = []
    for seed in range(32):
        fresh = make_tiny_model()
        token_id = add_token(fresh, make_tiny_tokenizer(), init="normal", seed=seed)
        drawn.append(rows_of(fresh)[token_id])
    stacked = torch.stack(drawn)
    assert torch.allclose(stacked.std(0), before.std(0), rtol=0.5)
    assert torch.allclose(stacked.mean(0), before.mean(0), atol=float(before.std()) * 0.6)


def test_normal_follows_its_seed(make_tiny_model: Make, make_tiny_tokenizer: MakeTokenizer) -> None:
    drawn = []
    for seed in (1, 1, 2):
        model = make_tiny_model()
        token_id = add_token(model, make_tiny_tokenizer(), init="normal", seed=seed)
        drawn.append(rows_of(model)[token_id])
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_description_is_the_mean_of_its_tokens(
    make_tiny_model: Make, tiny_tokenizer: PreTrainedTokenizerBase
) -> None:
    model = make_tiny_model()
    before = rows_of(model).clone()
    token_id = add_token(model, tiny_tokenizer, init="description", description="abca")
    ids = tiny_tokenizer.encode("abca", add_special_tokens=False)
    assert torch.allclose(rows_of(model)[token_id], before[ids].mean(0), atol=1e-6)


@pytest.mark.parametrize(
    ("init", "description"), [("description", None), ("description", "  "), ("zeros", None)]
)
def test_invalid_init_is_refused(
    make_tiny_model: Make, tiny_tokenizer: PreTrainedTokenizerBase, init: str, description: str
) -> None:
    size = len(tiny_tokenizer)
    with pytest.raises(InputError, match="init"):
        add_token(make_tiny_model(), tiny_tokenizer, init=init, description=description)
    assert len(tiny_tokenizer) == size


def test_encode_splits_where_the_answer_begins(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    encoded = encode(tiny_tokenizer, Record.pair("why", "because"))
    assert tiny_tokenizer.decode(encoded.prompt_ids) == "<|user|>why<|end|><|assistant|>"
    assert tiny_tokenizer.decode(encoded.answer_ids) == "because<|end|>"


def test_a_template_without_one_place_for_the_answer_is_refused(
    tiny_tokenizer: PreTrainedTokenizerBase,
) -> None:
    tiny_tokenizer.chat_template = "{{ messages | length }}{{ messages[-1]['content'] }}"
    with pytest.raises(InputError, match="another template"):
        encode(tiny_tokenizer, Record.pair("why", "because"))
