"""The training rows, prompts and engine of each method."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from conftest import tiny_llama
from transformers import PreTrainedTokenizerBase

from delia_data.diversify import diversify
from delia_data.engines import Request, Sampling
from delia_data.engines.local import encode_prompt
from delia_data.errors import InputError
from delia_data.experiments.methods import (
    METHODS,
    ControlledEngine,
    Material,
    atomic_facts,
    dmt_stages,
    explained,
    fact_rows,
    get_method,
    learn_dictionary,
    optimizer_steps,
    repeat_rows,
    with_entries,
)
from delia_data.records import Message, Record
from delia_data.tasks import bundled_task, bundled_wordings, make_task
from delia_data.training.settings import TrainSettings

CACHE = tuple(Record.pair(f"query {i}", f"answer {i}") for i in range(300))
SETTINGS = TrainSettings(batch_size=16, epochs=2)
ASKED = (Message("user", "Is it right? <sep>"),)


def material(**changes: Any) -> Material:
    whole = bundled_task()
    task = replace(whole, train=whole.train[:20])
    made = Material(task, tuple(bundled_wordings()), CACHE, ratio=3, seed=1)
    return replace(made, **changes)


def training(name: str, **changes: Any) -> Any:
    make = get_method(name).training
    assert make is not None
    return make(material(**changes), SETTINGS)


@pytest.mark.parametrize(
    ("method", "pairs", "wordings"),
    [("delia", 200, 72), ("no_diverse", 0, 72), ("no_wordings", 200, 1), ("common", 0, 1)],
)
def test_each_method_has_its_pairs_and_wordings(method: str, pairs: int, wordings: int) -> None:
    rows = training(method, task=bundled_task(), ratio=2).rows
    sources = [row["source"] for row in rows]
    assert (sources.count("task"), sources.count("cache")) == (100, pairs)
    assert len({row["wording_id"] for row in rows} - {None}) == wordings


def test_rows_that_have_wordings_keep_them() -> None:
    rows = diversify(bundled_task(), bundled_wordings(), seed=7)
    mixed = material(rows=rows, wordings=()).mixture(diversified=True, pairs=False)
    ids = sorted((row["wording_id"], row["source_id"]) for row in mixed)
    assert ids == sorted((row.wording_id, row.record.id) for row in rows.train)


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(InputError, match=r"did you mean 'delia'.*use one of"):
        get_method("dalia")


def test_every_method_is_described() -> None:
    assert len({method.title for method in METHODS.values()}) == len(METHODS)
    for method in METHODS.values():
        assert method.training or method.prompt or method.engine


@pytest.mark.parametrize(
    ("name", "init"),
    [("original", "mean"), ("random_init", "normal"), ("mean_embedding", "description")],
)
def test_untrained_methods_differ_in_the_tokens_row_alone(name: str, init: str) -> None:
    made = training(name)
    assert made.rows == ()
    assert made.settings.init == init
    assert replace(made.settings, init="mean", description=None, seed=0) == SETTINGS


def test_step_matched_takes_as_many_steps_as_delia_on_the_tasks_rows_alone() -> None:
    ours, theirs = training("delia"), training("step_matched")
    assert ours.steps == theirs.steps == 2 * math.ceil(80 / 16)
    assert {row["source"] for row in theirs.rows} == {"task"}
    ids = [row["source_id"] for row in theirs.rows]
    assert len(ids) == 160
    assert {ids.count(one) for one in ids} == {8}
    assert ids[:20] != ids[20:40]


def test_step_matched_takes_the_batch_of_delia_if_it_follows_from_the_rows() -> None:
    """80 rows are few, so that the batch is 16; 300 are not, so that it is 64."""
    settings = replace(SETTINGS, batch_size=None)
    make = METHODS["step_matched"].training
    assert make is not None
    few, many = (make(material(ratio=ratio), settings) for ratio in (3, 14))
    assert (few.settings.batch_size, few.steps) == (16, 2 * 5)
    assert (many.settings.batch_size, many.steps) == (64, 2 * 5)


def test_neftune_is_step_matched_with_noise() -> None:
    noisy, plain = training("neftune"), training("step_matched")
    assert noisy.rows == plain.rows
    assert noisy.settings == replace(plain.settings, neftune_alpha=5.0, packing=False)


def test_diverse_data_alone_are_delias_pairs() -> None:
    pairs = [row for row in training("delia").rows if row["source"] == "cache"]
    assert list(training("pairs_only").rows) == pairs
    assert len(pairs) == 60


def test_dmt_repeats_a_tenth_of_the_task() -> None:
    first, second = dmt_stages(material())
    assert len(first) == 20
    assert {row["source"] for row in first} == {"task"}
    again = [row["source_id"] for row in second if row["source"] == "task"]
    assert len(again) == 2
    assert len(second) == 62
    made = training("dmt")
    assert len(made.rows) == 2 * (20 + 62)
    assert [row["source"] for row in made.rows[:40]] == ["task"] * 40
    assert made.settings.epochs == 1


def test_repeated_rows_come_once_a_pass() -> None:
    rows = [{"source_id": str(i)} for i in range(5)]
    taken = [row["source_id"] for row in repeat_rows(rows, 12, seed=3)]
    assert sorted(taken[:5]) == sorted(taken[5:10]) == [str(i) for i in range(5)]
    assert taken == [row["source_id"] for row in repeat_rows(rows, 12, seed=3)]
    with pytest.raises(InputError, match="no rows"):
        repeat_rows([], 3)


def test_steps_are_counted_with_a_last_small_batch() -> None:
    assert optimizer_steps(100, replace(SETTINGS, batch_size=16, epochs=1)) == 7
    assert optimizer_steps(100, replace(SETTINGS, batch_size=16, epochs=1.5)) == 11


def test_a_description_is_split_into_atomic_facts() -> None:
    task = replace(
        bundled_task(),
        description="a JSON object with the keys a and b, where a is a word and b is yes or no",
        keys=("a", "b"),
    )
    facts = atomic_facts(task)
    assert [text for text, _ in facts] == [
        "It stands for a JSON object with the keys a and b, where a is a word and b is yes or no.",
        "It stands for a JSON object with the keys a and b.",
        "In it, a is a word.",
        "In it, b is yes or no.",
        "It has the key a.",
        "It has the key b.",
    ]
    assert all("<sep>" in question for _, questions in facts for question in questions)
    assert not any("{" in question for _, questions in facts for question in questions)
    with pytest.raises(InputError, match="description"):
        atomic_facts(replace(task, description=" "))


def test_facts_take_the_place_of_task_rows() -> None:
    rows = fact_rows(material().task)
    assert len({row["source_id"] for row in rows}) == len(rows)
    made, ours = training("fact_based"), training("delia")
    pairs = [row for row in ours.rows if row["source"] == "cache"]
    assert [row for row in made.rows if row["source"] == "cache"] == pairs
    facts = [row["source_id"] for row in made.rows if row["source"] == "task"]
    assert set(facts) <= {row["source_id"] for row in rows}
    assert (len(facts), made.steps) == (len(ours.rows) - len(pairs), ours.steps)


def test_examples_precede_the_question() -> None:
    make = METHODS["in_context"].prompt
    assert make is not None
    asked = make(material(examples=3))((Message("system", "Be brief."), *ASKED), "")
    assert [turn.role for turn in asked] == ["system", *["user", "assistant"] * 3, "user"]
    assert asked[-1] == ASKED[0]
    assert all("<sep>" in turn.content for turn in asked if turn.role == "user")
    fewer = make(material(examples=2))(ASKED, "")
    assert fewer[:4] == asked[1:5]
    with pytest.raises(InputError, match="lower the number of examples"):
        make(material(examples=21))


def test_words_are_aligned_by_model_one() -> None:
    """Brown et al.'s own example: `the` is in two sentences, and explains `das`."""
    texts = [("the house", "das Haus"), ("the book", "das Buch"), ("a book", "ein Buch")]
    rows = [Record.pair(*text) for text in texts * 2]
    learned = learn_dictionary(rows, translations=1, rounds=30)
    assert learned == {"a": ("ein",), "book": ("buch",), "house": ("haus",), "the": ("das",)}


def test_a_word_seen_once_has_no_entry() -> None:
    assert learn_dictionary([Record.pair("the house", "das Haus")]) == {}


def test_entries_of_a_text_follow_the_question() -> None:
    entries = {"dog": ("hundur",), "fish": ("fiskur", "fiskar"), "translate": ("þýða",)}
    prompt = with_entries("Translate: The dog eats fish.", "The dog eats fish.", entries)
    assert prompt.splitlines() == [
        "Translate: The dog eats fish.",
        'In this text, the word "dog" means "hundur"; the word "fish" means "fiskur" or "fiskar".',
    ]
    assert with_entries("Translate: Hello", "Hello", entries) == "Translate: Hello"


def test_dipmt_takes_translations_alone() -> None:
    make = METHODS["dipmt"].prompt
    assert make is not None
    with pytest.raises(InputError, match="not a translation"):
        make(material())
    rows = [Record.pair(f"The dog {i}.", f"Hundurinn {i}.") for i in range(6)]
    task = make_task(
        name="t",
        train=rows,
        test=[Record.pair("A dog.", "Hundur.")],
        instruction="Translate into Icelandic.",
        stands_for="the translation alone",
        scoring="translation",
    )
    asked = make(Material(task, examples=1))(
        [Message("user", "Translate: A dog. In <sep>")], "A dog."
    )
    assert len(asked) == 3
    assert 'the word "dog" means "hundurinn"' in asked[0].content
    assert asked[-1].content.endswith('In this text, the word "dog" means "hundurinn".')


def test_controlled_generation_combines_two_distributions(
    tiny_tokenizer: PreTrainedTokenizerBase,
) -> None:
    """The first token is worked out from the logits; batches change no answer."""
    import torch

    model, explain = tiny_llama().float(), explained("<sep>", "a JSON object")
    requests = [Request(str(i), (Message("user", "what " * (1 + i)),), seed=i) for i in range(5)]
    answers = [
        {
            done.id: (done.text, done.tokens)
            for done in ControlledEngine(model, tiny_tokenizer, explain, batch_size=size).generate(
                iter(requests), Sampling(0.0, 1.0, tokens)
            )
        }
        for size, tokens in ((1, 8), (5, 8), (5, 1))
    ]
    assert answers[0] == answers[1]
    for request in requests:
        logits = []
        for messages in (explain(request.messages), request.messages):
            ids = encode_prompt(tiny_tokenizer, replace(request, messages=messages))
            with torch.no_grad():
                logits.append(model(torch.tensor([ids])).logits[0, -1].log_softmax(0))
        token = int((1.5 * logits[0] - 0.5 * logits[1]).argmax())
        text = tiny_tokenizer.decode([token], skip_special_tokens=True)
        assert answers[2][request.id] == (text.strip(), 1)
    with pytest.raises(InputError, match="at least 1"):
        ControlledEngine(model, tiny_tokenizer, explain, batch_size=0)


def test_controlled_generation_explains_the_token() -> None:
    prompt = explained("<sep>", "a JSON object.")(ASKED)
    assert prompt[-1].content == "Is it right? <sep>\n\n<sep> stands for a JSON object."
    with pytest.raises(InputError, match="description"):
        explained("<sep>", "")
