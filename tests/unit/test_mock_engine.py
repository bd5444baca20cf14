"""The mock engine, and checks of the settings of all engines."""

from collections.abc import Sequence

import pytest

from delia_data.engines import (
    ENGINES,
    MockEngine,
    Prices,
    Request,
    RequestStream,
    Sampling,
    load_engine,
)
from delia_data.errors import InputError
from delia_data.ranking import row_seed
from delia_data.records import Record


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -0.1}, "temperature -0.1 is wrong"),
        ({"temperature": float("nan")}, "temperature nan is wrong"),
        ({"temperature": float("inf")}, "temperature inf is wrong"),
        ({"top_p": 0}, "top_p 0 is wrong"),
        ({"top_p": 1.01}, "top_p 1.01 is wrong"),
        ({"top_p": float("nan")}, "top_p nan is wrong"),
        ({"max_tokens": 0}, "max_tokens 0 is wrong"),
    ],
)
def test_sampling_has_bounds(values: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Sampling(**values)  # type: ignore[arg-type]
    Sampling(temperature=0, top_p=1, max_tokens=1)


def requests(count: int) -> Sequence[Request]:
    queries = (Record.pair(f"query {i}", "-").prompt for i in range(count))
    return [Request(f"id{i}", turns, row_seed(0, f"id{i}", "t")) for i, turns in enumerate(queries)]


@pytest.mark.parametrize("shuffle", [1, 4, 100])
def test_the_mock_engine_answers_every_request_once(shuffle: int) -> None:
    asked = requests(10)
    engine = MockEngine(shuffle=shuffle)
    answers = list(engine.generate(iter(asked), Sampling()))
    assert sorted(a.id for a in answers) == sorted(r.id for r in asked)
    assert ([a.id for a in answers] == [r.id for r in asked]) == (shuffle == 1)
    assert list(engine.generate(asked, Sampling())) == answers
    plain = {a.id: a for a in MockEngine().generate(asked, Sampling())}
    assert {a.id: a for a in answers} == plain


def test_the_mock_engine_truncates_answers() -> None:
    engine = MockEngine(answer=lambda _: "one two three")
    cut, whole = (next(engine.generate(requests(1), Sampling(max_tokens=n))) for n in (2, 3))
    assert (cut.text, cut.tokens, cut.finish) == ("one two", 2, "length")
    assert (whole.text, whole.tokens, whole.finish) == ("one two three", 3, "stop")


def test_the_mock_engine_counts_what_it_pretends_to_charge() -> None:
    engine = MockEngine(answer=lambda _: "one two three", prices=Prices(1.0, 10.0))
    (answer,) = engine.generate(requests(1), Sampling())
    assert (answer.prompt_tokens, answer.cost) == (2, 2 * 1.0 + 3 * 10.0)
    (answer,) = MockEngine(prices=None).generate(requests(1), Sampling())
    assert answer.cost is None


def test_the_mock_engine_writes_the_user_turn() -> None:
    request = Request("id", (), 7, role="user", prefill="Explain ")
    (answer,) = MockEngine(answer=lambda _: "the rain.").generate([request], Sampling())
    assert answer.text == "Explain the rain."


def test_none_ends_the_available_requests() -> None:
    first, second, third = requests(3)
    intake = RequestStream([first, second, None, third, None])
    assert intake.take(8) == [first, second]
    assert intake.take(8) == [third]
    assert not intake.ended
    assert intake.take(8) == []
    assert intake.ended


def test_requests_are_taken_as_there_is_room_for_them() -> None:
    taken = []

    def stream() -> object:
        for request in requests(10):
            taken.append(request)
            yield request

    intake = RequestStream(stream())  # type: ignore[arg-type]
    assert intake.take(3) == taken[:3]
    assert intake.take(0) == []
    assert len(taken) == 3


def test_unknown_engines_and_options_are_named() -> None:
    with pytest.raises(InputError, match=f"'gpt' is unknown: use one of {', '.join(ENGINES)}"):
        load_engine("gpt", model="m")
    with pytest.raises(InputError, match="engine 'mock' has no option batch_size: it has none"):
        load_engine("mock", model="m", batch_size=3)
    message = "engine 'transformers' has no option rpm: it has device, batch_size"
    with pytest.raises(InputError, match=message):
        load_engine("transformers", model="m", rpm=3)
