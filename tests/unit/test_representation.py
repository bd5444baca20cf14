"""Distances between the token and keywords, on a tiny random model and a tiny tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pytest

from delia_data.errors import InputError, TokenError
from delia_data.evaluation.representation import DEFAULT_CONTEXTS, locate, measure_alignment
from delia_data.tokens import add_token

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

WORDS = ["[UNK]", "[BOS]", "[EOS]", "json", "thought", "sche", "##ma", "##s"]
LAYERS = 2


class Distances(NamedTuple):
    """Mean distances to one keyword, block by block."""

    keyword: str
    l2: tuple[float, ...]
    cosine: tuple[float, ...]


def token_distances(
    model: Any,
    tokenizer: Any,
    token: str,
    keywords: Sequence[str],
    contexts: Sequence[str] = DEFAULT_CONTEXTS,
) -> list[Distances]:
    found = measure_alignment(
        model, tokenizer, token, keywords, contexts=contexts, words=2, controls=1
    )
    return [
        Distances(one.keyword, one.token.l2.mean, one.token.cosine.mean) for one in found.keywords
    ]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def tokenizer() -> Any:
    words = {w.strip(".?") for context in DEFAULT_CONTEXTS for w in context.split()} - {"{word}"}
    vocabulary = {word: index for index, word in enumerate([*WORDS, ".", "?", *sorted(words)])}
    core = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    core.normalizer = tokenizers.normalizers.Replace("~", "")
    core.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    core.post_processor = tokenizers.processors.TemplateProcessing(
        single="[BOS] $A [EOS]", special_tokens=[("[BOS]", 1), ("[EOS]", 2)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="[UNK]", bos_token="[BOS]", eos_token="[EOS]"
    )


@pytest.fixture
def model(tokenizer: Any) -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=4,
        initializer_range=0.5,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    add_token(model, tokenizer, "<sep>", init="normal")
    return model


class WithoutOffsets:
    """The same tokenizer, as one that cannot tell offsets."""

    is_fast = False

    def __init__(self, tokenizer: Any) -> None:
        self.encode = tokenizer.encode
        self.unk_token_id = tokenizer.unk_token_id


def test_one_number_for_each_block(model: Any, tokenizer: Any) -> None:
    distances = token_distances(model, tokenizer, "<sep>", ["json", "thought"])

    assert [d.keyword for d in distances] == ["json", "thought"]
    for found in distances:
        assert len(found.l2) == len(found.cosine) == LAYERS
        assert all(value > 0.01 for value in found.l2)
        assert all(0.001 < value < 2 for value in found.cosine)


def test_numbers_are_those_of_the_hidden_states(model: Any, tokenizer: Any) -> None:
    [found] = token_distances(model, tokenizer, "<sep>", ["json"], contexts=["Answer in {word}"])

    states = []
    for word in ("<sep>", "json"):
        ids = tokenizer(f"Answer in {word}")["input_ids"]
        assert len(ids) == 5  # [BOS] Answer in word [EOS]
        with torch.no_grad():
            output = model(torch.tensor([ids]), output_hidden_states=True)
        states.append(torch.stack(output.hidden_states[1:])[:, 0, 3])
    expected = (states[0] - states[1]).pow(2).sum(-1).sqrt()
    cosine = torch.nn.functional.cosine_similarity(*states, dim=-1)
    assert found.l2 == pytest.approx(expected.tolist(), rel=1e-5)
    assert found.cosine == pytest.approx((1 - cosine).tolist(), rel=1e-4)


def test_numbers_are_means_over_the_contexts(model: Any, tokenizer: Any) -> None:
    alone = [
        token_distances(model, tokenizer, "<sep>", ["json"], contexts=[context])[0].l2
        for context in DEFAULT_CONTEXTS
    ]
    [together] = token_distances(model, tokenizer, "<sep>", ["json"])

    means = [sum(column) / len(alone) for column in zip(*alone, strict=True)]
    assert together.l2 == pytest.approx(means)


def test_equal_embeddings_are_at_no_distance(model: Any, tokenizer: Any) -> None:
    weight = model.get_input_embeddings().weight
    ids = tokenizer.convert_tokens_to_ids(["<sep>", "json"])
    with torch.no_grad():
        weight[ids[0]] = weight[ids[1]]

    same, other = token_distances(model, tokenizer, "<sep>", ["json", "thought"])

    assert same.l2 == pytest.approx([0.0] * LAYERS, abs=1e-5)
    assert same.cosine == pytest.approx([0.0] * LAYERS, abs=1e-5)
    assert min(other.l2) > 0.01


def test_bfloat16_is_measured_in_float32(model: Any, tokenizer: Any) -> None:
    [exact] = token_distances(model, tokenizer, "<sep>", ["json"])
    [rough] = token_distances(model.to(torch.bfloat16), tokenizer, "<sep>", ["json"])

    assert rough.l2 == pytest.approx(exact.l2, rel=0.1)


@pytest.mark.parametrize("context", ["Follow the {word} format", "{word}", "Answer in {word}"])
@pytest.mark.parametrize("word", ["<sep>", "json", "schema", "schemas"])
def test_the_last_id_of_the_word_is_found(
    model: Any, tokenizer: Any, context: str, word: str
) -> None:
    last = {"<sep>": "<sep>", "json": "json", "schema": "##ma", "schemas": "##s"}[word]
    pieces = {"<sep>": 1, "json": 1, "schema": 2, "schemas": 3}[word]

    found = locate(tokenizer, context, word)

    assert tokenizer.convert_ids_to_tokens(found.ids[found.last]) == last
    assert found.pieces == pieces
    assert found.last == len(context.split("{word}")[0].split()) + pieces
    assert locate(WithoutOffsets(tokenizer), context, word) == found  # type: ignore[arg-type]


def test_a_model_wrapped_by_peft_is_measured(model: Any, tokenizer: Any) -> None:
    peft = pytest.importorskip("peft")
    plain = token_distances(model, tokenizer, "<sep>", ["json"])
    token_id = tokenizer.convert_tokens_to_ids("<sep>")
    config = peft.LoraConfig(
        r=4,
        target_modules=["q_proj", "v_proj"],
        trainable_token_indices=[token_id],
        task_type="CAUSAL_LM",
    )
    wrapped = peft.get_peft_model(model, config)

    fresh = token_distances(wrapped, tokenizer, "<sep>", ["json"])
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "trainable_tokens" in name:
                parameter.add_(1.0)
    moved = token_distances(wrapped, tokenizer, "<sep>", ["json"])

    assert fresh[0].l2 == pytest.approx(plain[0].l2, rel=1e-4)
    assert len(moved[0].l2) == LAYERS
    assert moved[0].l2 != pytest.approx(plain[0].l2, rel=1e-3)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(model: Any, tokenizer: Any, training: bool) -> None:
    model.train(training)

    token_distances(model, tokenizer, "<sep>", ["json"])

    assert model.training is training
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("keywords", "contexts", "message"),
    [
        ([], DEFAULT_CONTEXTS, "no word to compare with"),
        (["json", " "], DEFAULT_CONTEXTS, "no word to compare with"),
        (["json"], [], "no contexts"),
        (["json"], ["Answer in json"], "must have {word} once"),
        (["json"], ["{word} {word}"], "must have {word} once"),
        (["~"], ["Answer in {word}"], "leaves no id"),
    ],
)
def test_bad_input_is_refused(
    model: Any, tokenizer: Any, keywords: list[str], contexts: list[str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        token_distances(model, tokenizer, "<sep>", keywords, contexts=contexts)


@pytest.mark.parametrize("token", ["<other>", "schema"])
def test_a_token_that_is_no_id_is_refused(model: Any, tokenizer: Any, token: str) -> None:
    with pytest.raises(TokenError, match="add it to the tokenizer first"):
        token_distances(model, tokenizer, token, ["json"])


def test_a_token_without_a_row_is_refused(model: Any, tokenizer: Any) -> None:
    tokenizer.add_tokens(["<late>"])

    with pytest.raises(TokenError, match="add it to both"):
        token_distances(model, tokenizer, "<late>", ["json"])
