"""The formatted-text metric: hand-worked answers, hostile ones, and properties."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delia_data.evaluation.answer_format import earliest_object, parse_answer

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
    """A quadratic reader would take minutes."""
    text = head + part * (100_000 // len(part))
    assert parse_answer(text, KEYS) is None
    assert parse_answer(text + "}", KEYS) is None


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


@given(st.text(alphabet="{}[]'\":,\\ ab1\n"))
def test_any_text_is_taken(text: str) -> None:
    found = earliest_object(text)

    assert found is None or (found in text and found[0] == "{" and found[-1] == "}")
    assert parse_answer(text, ("a",)) is None or found is not None
