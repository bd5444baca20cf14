"""Distances from the token to keywords and controls, on random models with small tokenizers."""

from __future__ import annotations

import itertools
from statistics import fmean, median, stdev
from typing import Any

import pytest
from word_models import word_model, word_tokenizer

from delia_data.errors import InputError, TokenError
from delia_data.evaluation.representation import (
    DEFAULT_CONTEXTS,
    locate,
    measure_alignment,
    ordinary_words,
    states_at_last,
)
from delia_data.tokens import add_token

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

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


@pytest.fixture
def pieces() -> Any:
    """A tokenizer that splits words into pieces and adds marks at both ends."""
    words = {w.strip(".?") for context in DEFAULT_CONTEXTS for w in context.split()} - {"{word}"}
    own = ["[UNK]", "[BOS]", "[EOS]", "json", "sche", "##ma", "##s", "<sep>", ".", "?"]
    vocabulary = {word: index for index, word in enumerate([*own, *sorted(words)])}
    core = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    core.normalizer = tokenizers.normalizers.Replace("~", "")
    core.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    core.post_processor = tokenizers.processors.TemplateProcessing(
        single="[BOS] $A [EOS]", special_tokens=[("[BOS]", 1), ("[EOS]", 2)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="[UNK]", additional_special_tokens=["<sep>"]
    )


class WithoutOffsets:
    """The same tokenizer without offsets."""

    is_fast = False

    def __init__(self, tokenizer: Any) -> None:
        self.encode = tokenizer.encode


@pytest.mark.parametrize("context", ["Follow the {word} format", "{word}", "Answer in {word}"])
@pytest.mark.parametrize(
    ("word", "last", "count"), [("<sep>", "<sep>", 1), ("schema", "##ma", 2), ("schemas", "##s", 3)]
)
def test_last_id_of_a_word(pieces: Any, context: str, word: str, last: str, count: int) -> None:
    position = locate(pieces, context, word)

    assert pieces.convert_ids_to_tokens(position.ids[position.last]) == last
    assert position.pieces == count
    assert position.last == len(context.split("{word}")[0].split()) + count
    assert locate(WithoutOffsets(pieces), context, word) == position  # type: ignore[arg-type]


def states(model: Any, tokenizer: Any, context: str, word: str) -> Any:
    """Return all hidden states of a text computed alone, of shape (blocks, width)."""
    position = locate(tokenizer, context, word)
    with torch.no_grad():
        output = model(torch.tensor([position.ids]), output_hidden_states=True)
    return torch.stack(output.hidden_states[1:])[:, 0, position.last]


def test_numbers_equal_those_of_states_computed_one_by_one(model: Any, tokenizer: Any) -> None:
    contexts = DEFAULT_CONTEXTS[:3]
    alignment = measure_alignment(model, tokenizer, "<sep>", ["json"], contexts=contexts, words=7)
    words = ordinary_words(tokenizer, 7, contexts, without=["json", "<sep>"])
    assert (alignment.words, alignment.controls) == (7, words)
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
    similarity = torch.nn.functional.cosine_similarity
    cosine = [1 - float(similarity(at[c, "<sep>"], at[c, "json"], dim=0)) for c in contexts]
    to_words = {word: fmean(l2(c, "<sep>", word) for c in contexts) for word in words}
    controls = [fmean(l2(c, word, "json") for c in contexts) for word in words]

    [keyword] = alignment.keywords
    band = keyword.ordinary["l2"]
    nearest = sorted(to_words, key=lambda word: to_words[word])[:5]
    assert alignment.median[block] == pytest.approx(fmean(medians), rel=1e-5)
    assert keyword.token.l2.mean[block] == pytest.approx(fmean(own), rel=1e-5)
    assert keyword.token.l2.sd is not None
    assert keyword.token.l2.sd[block] == pytest.approx(stdev(own), rel=1e-4)
    assert keyword.token.relative.mean[block] == pytest.approx(fmean(relative), rel=1e-5)
    assert keyword.token.cosine.mean[block] == pytest.approx(fmean(cosine), rel=1e-3)
    assert (band.low[block], band.mean[block], band.high[block]) == pytest.approx(
        (min(controls), fmean(controls), max(controls)), rel=1e-5
    )
    assert keyword.nearer[block] == sum(d < fmean(own) for d in to_words.values())
    assert [word.word for word in alignment.nearest[block]] == nearest
    assert alignment.nearest[block][0].l2 == pytest.approx(to_words[nearest[0]], rel=1e-5)
    assert len(alignment.nearest) == len(alignment.median) == LAYERS


def test_equal_embeddings_have_no_distance(model: Any, tokenizer: Any) -> None:
    weight = model.get_input_embeddings().weight
    token, json_, apple = tokenizer.convert_tokens_to_ids(["<sep>", "json", "apple"])
    with torch.no_grad():
        weight[token] = weight[json_]
    first, second = measure_alignment(model, tokenizer, "<sep>", KEYWORDS).keywords
    assert first.token.l2.mean == pytest.approx([0] * LAYERS, abs=1e-4)
    assert first.token.cosine.mean == pytest.approx([0] * LAYERS, abs=1e-6)
    assert first.nearer == (0,) * LAYERS
    assert min(second.token.l2.mean) > 0.1
    with torch.no_grad():
        weight[token] = weight[apple]
    alignment = measure_alignment(model, tokenizer, "<sep>", KEYWORDS)
    assert {block[0].word for block in alignment.nearest} == {"apple"}


@pytest.mark.parametrize(("init", "other"), [("mean", "normal"), ("normal", "mean")])
def test_a_new_token_equals_the_untrained_control(tokenizer: Any, init: Any, other: str) -> None:
    model = word_model(tokenizer, layers=LAYERS)
    add_token(model, tokenizer, "<sep>", init=init, seed=3)
    [keyword] = measure_alignment(model, tokenizer, "<sep>", ["json"], seed=3).keywords
    assert keyword.untrained[init].l2.mean == pytest.approx(keyword.token.l2.mean, rel=1e-4)
    assert keyword.untrained[other].l2.mean != pytest.approx(keyword.token.l2.mean, rel=1e-2)


def test_batches_and_padding_change_nothing(model: Any, tokenizer: Any) -> None:
    texts = [f"{w} {context}" for w in ("json", "a", "river") for context in DEFAULT_CONTEXTS]
    ids = [tokenizer(text.format(word="<sep>"))["input_ids"] for text in texts]
    with torch.no_grad():
        alone = torch.cat([states_at_last(model, [one]) for one in ids])
        together = states_at_last(model, ids, batch_size=5)
    assert together.shape == (len(ids), LAYERS, 32)
    assert torch.allclose(together, alone, atol=1e-5)


def test_model_and_tokenizer_stay_unchanged(model: Any, tokenizer: Any) -> None:
    model.train()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    vocabulary, random = dict(tokenizer.get_vocab()), torch.get_rng_state()
    first = measure_alignment(model, tokenizer, "<sep>", KEYWORDS)
    assert model.training
    assert tokenizer.get_vocab() == vocabulary
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())
    assert measure_alignment(model, tokenizer, "<sep>", KEYWORDS) == first


def test_bfloat16_and_models_wrapped_by_peft(model: Any, tokenizer: Any) -> None:
    peft = pytest.importorskip("peft")

    def l2(model: Any) -> tuple[float, ...]:
        options: Any = {"contexts": ["Answer in {word}"], "words": 2}
        [keyword] = measure_alignment(model, tokenizer, "<sep>", ["json"], **options).keywords
        assert keyword.token.l2.sd is None  # One context has no deviation.
        return keyword.token.l2.mean

    plain = l2(model)
    config = peft.LoraConfig(
        r=4,
        target_modules=["q_proj", "v_proj"],
        trainable_token_indices=[tokenizer.convert_tokens_to_ids("<sep>")],
        task_type="CAUSAL_LM",
    )
    wrapped = peft.get_peft_model(model, config)
    assert l2(wrapped) == pytest.approx(plain, rel=1e-4)
    assert l2(wrapped.to(torch.bfloat16)) == pytest.approx(plain, rel=0.1)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "trainable_tokens" in name:
                parameter.add_(1.0)
    assert l2(wrapped) != pytest.approx(plain, rel=0.1)


def test_ordinary_words_are_single_ids_sampled_by_seed(tokenizer: Any) -> None:
    few = ordinary_words(tokenizer, 5, DEFAULT_CONTEXTS)
    more = ordinary_words(tokenizer, 12, DEFAULT_CONTEXTS)
    assert more[:5] == few
    assert ordinary_words(tokenizer, 12, DEFAULT_CONTEXTS, seed=1) != more
    every = ordinary_words(tokenizer, 10_000, DEFAULT_CONTEXTS, without=["JSON"])
    assert len(set(every)) == len(every)
    assert all(len(word) >= 3 and word.isalpha() for word in every)
    assert "json" not in every
    assert {"apple", "seven"} <= set(every)


def test_parts_of_words_are_left_out() -> None:
    """`abc` is one id and ` def` is one id, but only the second includes the space."""
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


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"words": 1}, InputError, "at least 2"),
        ({"contexts": ["{word} {word}"]}, InputError, "contain {word} once"),
        ({"keywords": ["json", " "]}, InputError, "contain no word"),
        ({"token": "<other>"}, TokenError, "add it to the tokenizer first"),
        ({"token": "<late>"}, TokenError, "add it to both"),
    ],
)
def test_wrong_arguments(
    model: Any, tokenizer: Any, given: dict[str, Any], error: type[Exception], message: str
) -> None:
    tokenizer.add_tokens(["<late>"])
    with pytest.raises(error, match=message):
        measure_alignment(model, tokenizer, **{"token": "<sep>", "keywords": KEYWORDS, **given})


def test_texts_that_cannot_be_measured(
    pieces: Any, make_tiny_model: Any, make_tiny_tokenizer: Any
) -> None:
    with pytest.raises(InputError, match="has no id"):
        locate(pieces, "Answer in {word}", "~")
    tiny, letters = make_tiny_model(), make_tiny_tokenizer()
    add_token(tiny, letters, "<sep>")
    with pytest.raises(InputError, match="whose vocabulary contains words"):
        measure_alignment(tiny, letters, "<sep>", KEYWORDS)
