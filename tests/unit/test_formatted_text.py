"""The formatted-text metric: hand-worked answers, hostile ones, and properties."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delia_data.errors import InputError
from delia_data.evaluation import (
    FormattedTextScore,
    earliest_object,
    interval,
    parse_answer,
    score_formatted_text,
    selectivity,
)

KEYS = ("thought", "answer")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
PRINTABLE = st.text(st.characters(min_codepoint=32, max_codepoint=126))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"a": 1}', '{"a": 1}'),
        ('Sure! {"a": 1} Hope this helps {', '{"a": 1}'),
        ('{"a": {"b": {}}} {"c": 2}', '{"a": {"b": {}}}'),
        ('{"a": "}{"} tail }', '{"a": "}{"}'),
        ("{'a': '}{'} tail }", "{'a': '}{'}"),
        ('{"a": "\\"}"} tail', '{"a": "\\"}"}'),
        ("{'a': 'it\\'s }'} tail", "{'a': 'it\\'s }'}"),
        ("{it's fine} and {that's too}", "{it's fine}"),
        ("{the dogs' bowls} }", "{the dogs' bowls}"),
        ('{ see "the } brace" here }', '{ see "the } brace" here }'),
        ('{note: "the } brace" here} }', '{note: "the } brace" here}'),
        ('{ broken, then {"a": 1}', '{"a": 1}'),
        ("{ one {two} {three}", "{two}"),
        ("}{}", "{}"),
        ("```json\n{\n}\n```", "{\n}"),
        ("no braces at all", None),
        ("", None),
        ('{"a": 1', None),
        ("}}}", None),
    ],
)
def test_earliest_object(text: str, found: str | None) -> None:
    assert earliest_object(text) == found


@pytest.mark.parametrize(
    ("text", "thought"),
    [
        ("{'thought': 'plain', 'answer': 'yes'}", "plain"),
        ("{'answer': 'yes', 'thought': 'other order'}", "other order"),
        ("{'thought': 'It isn't so', 'answer': 'yes'}", "It isn't so"),
        ("{'thought': 'It isn\\'t so', 'answer': 'yes'}", "It isn't so"),
        ("{'thought': \"It isn't so\", 'answer': 'yes'}", "It isn't so"),
        ("{'thought': 'the dogs', they said', 'answer': 'yes'}", "the dogs', they said"),
        ("{'thought': 'He said \"no\" to it', 'answer': 'yes'}", 'He said "no" to it'),
        ('{"thought": "He said "no" to it", "answer": "yes"}', 'He said "no" to it'),
        ("{'thought': 'One of 'a', 'b' and 'c'.', 'answer': 'yes'}", "One of 'a', 'b' and 'c'."),
        ("{'thought': 'set {x}: y', 'answer': 'yes'}", "set {x}: y"),
        ("{'thought': '', 'answer': 'yes'}", ""),
        ("{'thought' : 'spaces' , 'answer' : 'yes' }", "spaces"),
        ("Here: {'thought': 'around', 'answer': 'yes'} That's it.", "around"),
        ("{'thought': 'tab \\t and \\\\', 'answer': 'yes'}", "tab \t and \\"),
    ],
)
def test_quotes_are_mended(text: str, thought: str) -> None:
    parsed = parse_answer(text, KEYS)

    assert parsed is not None
    assert parsed.value == {"thought": thought, "answer": "yes"}
    assert not parsed.strict


def test_nested_values_are_mended() -> None:
    parsed = parse_answer("{'thought': {'why': ['it's', 'so']}, 'answer': 3}", KEYS)

    assert parsed is not None
    assert parsed.value == {"thought": {"why": ["it's", "so"]}, "answer": 3}


@pytest.mark.parametrize(
    "text",
    [
        "yes",
        "{yes}",
        '{"thought": "a"}',
        '{"thought": "a", "answer": "b", "more": "c"}',
        '{"Thought": "a", "answer": "b"}',
        "{'thought': 'a'} {'thought': 'a', 'answer': 'b'}",
        "{don't} {'thought': 'a', 'answer': 'b'}",
        "{'thought': 'a', 'answer': 'unfinished}",
        "{'thought': 'a', 'answer': 'no brace'",
        "{'thought': 'a', 'answer': None}",
        "{'thought': 'a', 'answer': 'b',}",
        "{'thought': 'a' 'answer': 'b'}",
        "{'thought': 'a\nb', 'answer': 'c'}",
        "{'thought', 'answer'}",
        '{"thought": __import__("os"), "answer": 1}',
        f'{{"thought": {"9" * 5000}, "answer": 1}}',
    ],
)
def test_what_does_not_count(text: str) -> None:
    assert parse_answer(text, KEYS) is None


HOSTILE = [
    "{",
    "}",
    "{'",
    "{'a': ",
    '{"a": ',
    "' ",
    "','",
    "', '",
    "'a', ",
    ": '",
    '\', "k" ',
    "\\",
    "\\'",
    " ",
    "[",
    "': '" + "x" * 190,
    "'" + " " * 150 + ",",
]


@pytest.mark.parametrize("part", HOSTILE)
@pytest.mark.parametrize("head", ["", "{", "{'a': ", '{"a": "'])
def test_hostile_answers_end_soon(head: str, part: str) -> None:
    text = head + part * (100_000 // len(part))
    start = time.process_time()

    assert parse_answer(text, KEYS) is None
    assert parse_answer(text + "}", KEYS) is None
    assert time.process_time() - start < 5


@pytest.mark.parametrize("quote", ["'", '"'])
def test_deep_nesting_does_not_count(quote: str) -> None:
    text = f"{{{quote}thought{quote}: " * 20_000 + "1" + "}" * 20_000

    assert earliest_object(text) == text
    assert parse_answer(text, KEYS) is None


@given(st.fixed_dictionaries({"thought": VALUES, "answer": VALUES}), st.booleans(), PRINTABLE)
def test_json_is_read_as_it_stands(value: dict[str, Any], ascii_only: bool, tail: str) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)

    parsed = parse_answer(f"Answer: {text}{tail}", KEYS)

    assert parsed is not None
    assert parsed.strict
    assert parsed.value == value


@given(st.fixed_dictionaries({"thought": PRINTABLE, "answer": PRINTABLE}))
def test_what_python_prints_is_read(value: dict[str, str]) -> None:
    parsed = parse_answer(f"Answer: {value!r}", KEYS)

    assert parsed is not None
    assert not parsed.strict
    assert parsed.value == value


@given(st.text(alphabet="{}[]'\":,\\ ab1\n"))
def test_any_text_is_taken(text: str) -> None:
    found = earliest_object(text)

    assert found is None or (found in text and found[0] == "{" and found[-1] == "}")
    assert parse_answer(text, ("a",)) is None or found is not None


def test_score_counts_each_kind() -> None:
    answers = [
        '{"thought": "t", "answer": "yes"}',
        "{'thought': 't', 'answer': 'Yes '}",
        '{"thought": "t", "answer": "no"}',
        '{"thought": "t", "answer": ["yes"]}',
        "yes",
    ]

    score = score_formatted_text(answers, KEYS, label_key="answer", labels=["yes"] * 5)

    assert score == FormattedTextScore(rows=5, parsed=4, strict=3, correct=2)
    assert (score.share, score.strict_share, score.correct_share) == (0.8, 0.6, 0.4)
    assert score.interval == interval(4, 5)


def test_score_without_labels() -> None:
    score = score_formatted_text(["no"], KEYS)

    assert score == FormattedTextScore(rows=1, parsed=0, strict=0, correct=None)
    assert score.correct_share is None


def test_selectivity_is_the_difference_of_shares() -> None:
    with_token = FormattedTextScore(rows=10, parsed=9, strict=0)
    without_token = FormattedTextScore(rows=4, parsed=1, strict=0)

    assert selectivity(with_token, without_token) == pytest.approx(0.65)
    assert selectivity(without_token, with_token) == pytest.approx(-0.65)


def test_interval_against_known_numbers() -> None:
    # Newcombe 1998, Statistics in Medicine 17, table I, method 3.
    assert interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert interval(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)
    assert interval(20, 20) == pytest.approx((0.8389, 1.0), abs=5e-5)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_interval_holds_the_share(counts: tuple[int, int]) -> None:
    successes, rows = counts
    low, high = interval(successes, rows)

    assert 0 <= low <= successes / rows <= high <= 1


@pytest.mark.parametrize("counts", [(0, 0), (-1, 5), (6, 5)])
def test_interval_refuses_what_is_no_share(counts: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="is no share"):
        interval(*counts)


@pytest.mark.parametrize("counts", [(0, 0, 0), (2, 3, 0), (2, 1, 2), (2, 1, -1), (2, 1, 1, 2)])
def test_score_refuses_counts_that_do_not_add_up(counts: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="does not add up"):
        FormattedTextScore(*counts)


@pytest.mark.parametrize(
    ("answers", "settings", "message"),
    [
        ([], {}, "no answers"),
        (["a"], {"labels": ["yes"]}, "belong together"),
        (["a"], {"label_key": "answer"}, "belong together"),
        (["a"], {"label_key": "other", "labels": ["yes"]}, "not among the keys"),
        (["a"], {"label_key": "answer", "labels": []}, "0 labels for 1 answers"),
    ],
)
def test_score_refuses(answers: list[str], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        score_formatted_text(answers, KEYS, **settings)
