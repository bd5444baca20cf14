"""vLLM with the embedded model: kept full, rows independent, errors of one row its own.

In float32 a row's scores depend so little on its batch that texts are equal.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from delia_data.engines import Completion, Engine, Request, Sampling, load_engine
from delia_data.engines.transformers import TransformersEngine
from delia_data.errors import EngineError, InputError
from delia_data.models import DEFAULT_MODEL, identify, load_model, load_tokenizer
from delia_data.ranking import row_seed
from delia_data.records import Message
from delia_data.sampling import Query, read_cache, sample

pytest.importorskip("vllm")
pytestmark = pytest.mark.engines

SEQUENCES, AHEAD, BUDGET, LONGEST = 4, 2, 128, 512
DRAWN = Sampling(temperature=0.7, top_p=0.95, max_tokens=12)


def ask(text: str, number: int, **other: object) -> Request:
    return Request(f"{number}", (Message("user", text),), row_seed(0, f"{number}", "test"), **other)  # type: ignore[arg-type]


ANIMALS = ["cats", "dogs", "owls", "bees", "ants", "cows", "bats", "eels", "hens", "rats"]
REQUESTS = [ask(f"Tell me about {name}.", number) for number, name in enumerate(ANIMALS)]
# Longer than what is computed in one step, so that it is computed in parts.
CHUNKED = ask("List these words in another order: " + "red green blue " * 100, 50)
TOO_LONG = ask("word " * 600, 60)
USER = Request("70", (), row_seed(0, "70", "test"), "user", "How do I")


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    loaded = load_engine(
        "vllm",
        model=DEFAULT_MODEL,
        dtype="float32",
        max_model_len=LONGEST,
        max_num_seqs=SEQUENCES,
        max_num_batched_tokens=BUDGET,
        kv_cache_gib=0.5,
        ahead=AHEAD,
    )
    yield loaded
    loaded.close()


@pytest.fixture(scope="module")
def other() -> TransformersEngine:
    """The transformers engine, which samples in the same way."""
    import torch

    torch.set_num_threads(1)  # more threads would compete with vLLM's
    model = load_model(DEFAULT_MODEL, dtype=torch.float32)
    return TransformersEngine(model, load_tokenizer(DEFAULT_MODEL), batch_size=5)


def by_id(completions: Iterator[Completion]) -> dict[str, Completion]:
    listed = list(completions)
    found = {completion.id: completion for completion in listed}
    assert len(found) == len(listed)
    return found


def test_answers_equal_those_of_the_transformers_engine(
    engine: Engine, other: TransformersEngine
) -> None:
    """Prompts, draws, tokens, ends and texts; one prompt is computed in parts."""
    asked = [*REQUESTS, CHUNKED, USER]
    found = by_id(engine.generate(asked, DRAWN))
    assert len(found) == len(asked)
    assert found == by_id(other.generate(asked, DRAWN))
    assert len({completion.text for completion in found.values()}) == len(asked)
    assert found[USER.id].text.startswith("How do I")
    assert CHUNKED.id in found and found[CHUNKED.id].prompt_tokens > 2 * BUDGET


def test_rows_do_not_depend_on_the_batch(engine: Engine) -> None:
    together = by_id(engine.generate(REQUESTS, DRAWN))
    backwards = by_id(engine.generate(reversed(REQUESTS), DRAWN))
    alone = by_id(engine.generate(REQUESTS[6:7], DRAWN))
    assert together == backwards
    assert alone["6"] == together["6"]


def test_seed_decides_the_answer(engine: Engine) -> None:
    messages = REQUESTS[0].messages
    seeded = [Request(f"{i}", messages, seed) for i, seed in enumerate([1, 1, 2, 3, 4 + 2**62])]
    texts = [c.text for _, c in sorted(by_id(engine.generate(seeded, DRAWN)).items())]
    assert texts[0] == texts[1]
    assert len(set(texts)) == 4
    greedy = Sampling(temperature=0.0, max_tokens=6)
    assert len({c.text for c in engine.generate(seeded, greedy)}) == 1


def test_end_tokens_are_stripped(engine: Engine) -> None:
    greedy = Sampling(temperature=0.0, max_tokens=40)
    brief = [Request("brief", (Message("user", "What is the capital of France?"),), 0)]
    (stopped,) = engine.generate(brief, greedy)
    assert stopped.finish == "stop"
    assert "Paris" in stopped.text
    assert "<|" not in stopped.text
    (cut,) = engine.generate(brief, Sampling(temperature=0.0, max_tokens=stopped.tokens - 1))
    assert (cut.finish, cut.tokens, cut.text) == ("length", stopped.tokens - 1, stopped.text)


def test_too_long_a_prompt_fails_only_its_row(engine: Engine) -> None:
    found = by_id(engine.generate([TOO_LONG, REQUESTS[0]], DRAWN))
    assert found["60"].finish == "error"
    assert found["60"].text == ""
    assert f"may have {LONGEST}" in str(found["60"].error)
    assert found["0"].error is None


def test_engine_stays_full_within_its_capacity(engine: Engine) -> None:
    """Requests are taken as answers are given: never more at once than there is room for."""
    given, held = 0, []

    def feed() -> Iterator[Request]:
        for number in range(24):
            held.append(number + 1 - given)
            yield ask(f"Say {number}.", number)

    lengths = Sampling(temperature=1.0, max_tokens=10)
    for _ in engine.generate(feed(), lengths):
        given += 1
    assert given == 24
    assert max(held) <= SEQUENCES * AHEAD
    assert sorted(held)[12] > SEQUENCES, "the next prompt was not there when a place was free"


def test_none_in_the_stream_waits_for_a_completion(engine: Engine) -> None:
    """The third row is asked when the first is answered, as a loop does that replaces rows."""
    answered: list[str] = []

    def feed() -> Iterator[Request | None]:
        yield from REQUESTS[:2]
        seen = 0
        while len(answered) == seen:
            yield None
        yield REQUESTS[2]
        seen = len(answered)
        while len(answered) == seen and seen < 3:
            yield None

    for completion in engine.generate(feed(), DRAWN):
        answered.append(completion.id)
    assert sorted(answered) == ["0", "1", "2"]


def test_closing_early_aborts_all_requests(engine: Engine) -> None:
    ended = engine.generate(REQUESTS, DRAWN)
    next(ended)
    ended.close()  # type: ignore[attr-defined]
    assert set(by_id(engine.generate(REQUESTS[3:5], DRAWN))) == {"3", "4"}


def test_describe_identifies_the_weights(engine: Engine, other: TransformersEngine) -> None:
    identity = identify(other.model, other.tokenizer)
    assert engine.describe() == {"engine": "vllm", "model": identity}


def test_sample_a_cache(engine: Engine, tmp_path: Path) -> None:
    queries = [Query(f"Tell me about {name}.", "test") for name in ANIMALS]
    cache = tmp_path / "cache"
    # Cut off as all of these answers are, the filters would drop them.
    manifest = sample(engine, queries, cache, target=6, sampling=DRAWN, filters=[])
    assert manifest.rows["kept"] == 6
    assert manifest.settings["engine"] == "vllm"
    records = read_cache(cache)
    assert [record.query for record in records] == [query.text for query in queries[:6]]
    assert len({record.answer for record in records}) == 6


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"model": "./no-such-folder"}, "cannot be loaded"),
        ({"max_model_len": 10**6}, "vLLM cannot load model .*max_model_len"),
        ({"dtype": "float7"}, "vLLM cannot load model .*dtype"),
        ({"max_num_sequences": 4}, "has no option max_num_sequences"),
    ],
)
def test_load_errors_are_one_line(options: dict[str, object], text: str) -> None:
    with pytest.raises(InputError, match=text) as raised:
        load_engine("vllm", **{"model": DEFAULT_MODEL, **options})  # type: ignore[arg-type]
    assert len(str(raised.value).splitlines()) == 1


def test_dead_engine_ends_the_run(engine: Engine) -> None:
    """The last test here: nothing answers after it. What was finished before has been given."""
    completions = engine.generate(REQUESTS, DRAWN)
    assert next(completions).error is None
    (process,) = engine.engine.engine_core.resources.engine_manager.processes  # type: ignore[attr-defined]
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(EngineError, match="vLLM failed: ") as raised:
        list(completions)
    assert len(str(raised.value).splitlines()) == 1
    with pytest.raises(EngineError):
        list(engine.generate(REQUESTS[:1], DRAWN))
