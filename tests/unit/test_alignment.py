"""The token beside its keywords and the controls, on a random model with a tokenizer of words."""

from __future__ import annotations

import itertools
import json
from statistics import fmean, median, stdev
from typing import Any

import pytest
from word_models import word_model, word_tokenizer

from delia_data.errors import FormatError, InputError, TokenError
from delia_data.evaluation.representation import (
    DEFAULT_CONTEXTS,
    Alignment,
    locate,
    measure_alignment,
    ordinary_words,
    states_at_last,
    untrained_rows,
)
from delia_data.tokens import add_token

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

LAYERS = 3
KEYWORDS = ("json", "thought")


@pytest.fixture
def tokenizer() -> Any:
    return word_tokenizer()


@pytest.fixture
def model(tokenizer: Any) -> Any:
    model = word_model(tokenizer, layers=LAYERS)
    add_token(model, tokenizer, "<sep>", init="normal", seed=5)
    return model


def states(model: Any, tokenizer: Any, context: str, word: str) -> Any:
    """The slow way: the whole text alone, every hidden state; shape (blocks, width)."""
    found = locate(tokenizer, context, word)
    with torch.no_grad():
        output = model(torch.tensor([found.ids]), output_hidden_states=True)
    return torch.stack(output.hidden_states[1:])[:, 0, found.last]


def test_every_number_is_what_the_states_give_one_by_one(model: Any, tokenizer: Any) -> None:
    contexts = DEFAULT_CONTEXTS[:3]
    alignment = measure_alignment(
        model, tokenizer, "<sep>", ["json"], contexts=contexts, words=7, controls=3, nearest=2
    )
    words = ordinary_words(tokenizer, 7, contexts, without=["json", "<sep>"])
    assert alignment.words == 7
    assert alignment.controls == words[:3]
    block = 1
    at = {
        (context, word): states(model, tokenizer, context, word)[block]
        for context in contexts
        for word in ("<sep>", "json", *words)
    }

    def l2(context: str, left: str, right: str) -> float:
        return float((at[context, left] - at[context, right]).norm())

    medians = [
        median(l2(context, a, b) for a, b in itertools.combinations(words, 2))
        for context in contexts
    ]
    own = [l2(context, "<sep>", "json") for context in contexts]
    relative = [distance / m for distance, m in zip(own, medians, strict=True)]
    to_words = {word: fmean(l2(c, "<sep>", word) for c in contexts) for word in words}
    controls = [fmean(l2(c, word, "json") for c in contexts) for word in words[:3]]

    [found] = alignment.keywords
    assert alignment.median[block] == pytest.approx(fmean(medians), rel=1e-5)
    assert found.token.l2.mean[block] == pytest.approx(fmean(own), rel=1e-5)
    assert found.token.l2.sd is not None
    assert found.token.l2.sd[block] == pytest.approx(stdev(own), rel=1e-4)
    assert found.token.relative.mean[block] == pytest.approx(fmean(relative), rel=1e-5)
    assert found.ordinary["l2"].mean[block] == pytest.approx(fmean(controls), rel=1e-5)
    assert found.ordinary["l2"].low[block] == pytest.approx(min(controls), rel=1e-5)
    assert found.ordinary["l2"].high[block] == pytest.approx(max(controls), rel=1e-5)
    assert found.nearer[block] == sum(d < fmean(own) for d in to_words.values())
    nearest = sorted(to_words, key=lambda word: to_words[word])[:2]
    assert [one.word for one in alignment.nearest[block]] == nearest
    assert alignment.nearest[block][0].l2 == pytest.approx(to_words[nearest[0]], rel=1e-5)
    assert len(alignment.nearest) == len(alignment.median) == LAYERS


def test_a_token_that_equals_a_word_is_at_no_distance(model: Any, tokenizer: Any) -> None:
    weight = model.get_input_embeddings().weight
    token, json_, apple = tokenizer.convert_tokens_to_ids(["<sep>", "json", "apple"])
    with torch.no_grad():
        weight[token] = weight[json_]
    first, second = measure_alignment(model, tokenizer, "<sep>", KEYWORDS).keywords
    assert first.token.l2.mean == pytest.approx([0] * LAYERS, abs=1e-4)
    assert first.token.relative.mean == pytest.approx([0] * LAYERS, abs=1e-4)
    assert first.token.cosine.mean == pytest.approx([0] * LAYERS, abs=1e-6)
    assert first.nearer == (0,) * LAYERS
    assert min(second.token.l2.mean) > 0.1

    with torch.no_grad():
        weight[token] = weight[apple]
    alignment = measure_alignment(model, tokenizer, "<sep>", KEYWORDS)
    assert {block[0].word for block in alignment.nearest} == {"apple"}
    assert alignment.nearest[0][0].l2 == pytest.approx(0, abs=1e-4)
    assert all(one.nearer[0] >= 1 for one in alignment.keywords)


@pytest.mark.parametrize("init", ["mean", "normal"])
def test_a_token_that_was_just_added_is_the_untrained_control(tokenizer: Any, init: Any) -> None:
    model = word_model(tokenizer, layers=LAYERS)
    add_token(model, tokenizer, "<sep>", init=init, seed=3)

    [found] = measure_alignment(model, tokenizer, "<sep>", ["json"], seed=3).keywords

    assert found.untrained[init].l2.mean == pytest.approx(found.token.l2.mean, rel=1e-4)
    other = {"mean": "normal", "normal": "mean"}[init]
    assert found.untrained[other].l2.mean != pytest.approx(found.token.l2.mean, rel=1e-2)


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_batches_and_padding_change_nothing(model: Any, tokenizer: Any, batch_size: int) -> None:
    words = ["json", "a", "river"]
    texts = [f"{w} {context}" for w in words for context in DEFAULT_CONTEXTS]
    ids = [tokenizer(text.format(word="<sep>"))["input_ids"] for text in texts]
    with torch.no_grad():
        together = states_at_last(model, ids, batch_size=batch_size)
        alone = torch.cat([states_at_last(model, [one]) for one in ids])
    assert together.shape == (len(ids), LAYERS, 32)
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_model_and_tokenizer_are_left_as_they_were(
    model: Any, tokenizer: Any, training: bool
) -> None:
    model.train(training)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    vocabulary, random = dict(tokenizer.get_vocab()), torch.get_rng_state()

    first = measure_alignment(model, tokenizer, "<sep>", KEYWORDS)

    assert model.training is training
    assert tokenizer.get_vocab() == vocabulary
    assert torch.equal(torch.get_rng_state(), random)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert measure_alignment(model, tokenizer, "<sep>", KEYWORDS) == first


def test_words_are_whole_and_drawn_by_seed(tokenizer: Any) -> None:
    few = ordinary_words(tokenizer, 5, DEFAULT_CONTEXTS)
    more = ordinary_words(tokenizer, 12, DEFAULT_CONTEXTS)
    assert more[:5] == few
    assert ordinary_words(tokenizer, 12, DEFAULT_CONTEXTS, seed=1) != more
    every = ordinary_words(tokenizer, 10_000, DEFAULT_CONTEXTS, without=["JSON"])
    assert len(set(every)) == len(every)
    assert all(len(word) >= 3 and word.isalpha() for word in every)
    assert "json" not in every
    assert {"apple", "seven"} <= set(every)


def test_words_that_fall_into_pieces_are_left_out() -> None:
    """The vocabulary has `Zebra`, which reading makes `zebra`, and that is two ids."""
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    words = ["[UNK]", "answer", "in", "apple", "river", "ze", "##bra", "Zebra"]
    core = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]")
    )
    core.normalizer = tokenizers.normalizers.Lowercase()
    core.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]")
    assert locate(tokenizer, "Answer in {word}", "Zebra").pieces == 2
    assert set(ordinary_words(tokenizer, 9, ["Answer in {word}"])) == {"answer", "apple", "river"}


def test_pieces_that_leave_the_space_by_itself_are_no_words() -> None:
    """`abc` is one id and ` def` is: only the second is a word of a text."""
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    merges = [("a", "b"), ("ab", "c"), ("Ġ", "d"), ("Ġd", "e"), ("Ġde", "f")]
    merges += [("Ġ", "g"), ("Ġg", "h"), ("Ġgh", "i")]
    pieces = [*"abcdefghiĠ", *("".join(pair) for pair in merges)]
    core = tokenizers.Tokenizer(
        tokenizers.models.BPE({piece: i for i, piece in enumerate(pieces)}, merges)
    )
    core.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = tokenizers.decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=core)
    assert locate(tokenizer, "a {word} b", "abc").pieces == 1
    assert set(ordinary_words(tokenizer, 9, ["a {word} b"])) == {"def", "ghi"}


def test_untrained_rows_are_those_of_a_token_that_is_added(tokenizer: Any) -> None:
    model = word_model(tokenizer)
    token_id = add_token(model, tokenizer, "<sep>", init="normal", seed=7)
    rows = untrained_rows(model, token_id, seed=7)
    weight = model.get_input_embeddings().weight.detach()
    assert torch.allclose(rows["normal"], weight[token_id], atol=1e-6)
    assert torch.allclose(rows["mean"], weight[:token_id].mean(0), atol=1e-6)


def test_one_context_has_no_deviation_and_json_gives_all_back(model: Any, tokenizer: Any) -> None:
    alignment = measure_alignment(
        model, tokenizer, "<sep>", KEYWORDS, contexts=["Answer in {word}"]
    )
    assert alignment.keywords[0].token.l2.sd is None
    assert Alignment.from_dict(json.loads(json.dumps(alignment.as_dict()))) == alignment
    broken = {**alignment.as_dict(), "median": ["far"]}
    with pytest.raises(FormatError, match=r"median\.0.*run its command again"):
        Alignment.from_dict(broken)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"words": 1}, "at least 2 words"),
        ({"controls": 0}, "controls 0"),
        ({"words": 4, "controls": 5}, "controls 5"),
        ({"nearest": 0}, "nearest 0"),
        ({"contexts": []}, "no contexts"),
        ({"keywords": []}, "no word to compare with"),
    ],
)
def test_bad_input_is_refused(
    model: Any, tokenizer: Any, given: dict[str, Any], message: str
) -> None:
    keywords = given.pop("keywords", KEYWORDS)
    with pytest.raises(InputError, match=message):
        measure_alignment(model, tokenizer, "<sep>", keywords, **given)


def test_a_token_that_was_not_added_is_refused(model: Any, tokenizer: Any) -> None:
    with pytest.raises(TokenError, match="add it to the tokenizer first"):
        measure_alignment(model, tokenizer, "<other>", KEYWORDS)


def test_a_vocabulary_without_words_is_refused(
    make_tiny_model: Any, make_tiny_tokenizer: Any
) -> None:
    model, tokenizer = make_tiny_model(), make_tiny_tokenizer()
    add_token(model, tokenizer, "<sep>")
    with pytest.raises(InputError, match="whose vocabulary holds words"):
        measure_alignment(model, tokenizer, "<sep>", KEYWORDS)
