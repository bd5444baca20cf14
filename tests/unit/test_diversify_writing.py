"""Models write wordings until enough pass, resume after a kill, and stop at the budget."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from wordings import verdicts

from delia_data.diversify.check import WordingChecker
from delia_data.diversify.generate import KINDS, ParaphraseGenerator, write_wordings
from delia_data.engines import Completion, MockEngine, Request, Sampling
from delia_data.errors import InputError
from delia_data.ranking import rank
from delia_data.sampling.budget import Budget, Limits
from delia_data.tasks import Task

TASK = replace(verdicts(), request="Say whether it is right.", meanings=("Is it so?",))
WORDS = [f"w{chr(97 + i)}{chr(97 + j)}" for i in range(26) for j in range(26)]


def mostly(request: Request) -> str:
    """Two of three texts name the token."""
    drawn = [WORDS[rank(request.seed, str(i), "text") % len(WORDS)] for i in range(6)]
    end = "" if rank(request.seed, "", "good") % 3 == 0 else " Reply in <sep>."
    return f"Say {' '.join(drawn)}.{end}"


def run(
    folder: Path,
    engine: MockEngine | None = None,
    *,
    count: int = 20,
    tries: int = 100,
    task: Task = TASK,
    spare: int = 0,
    seed: int = 0,
    budget: Budget | None = None,
) -> SimpleNamespace:
    generator = ParaphraseGenerator(task, seed=seed)
    checker = WordingChecker(task, examples=generator.examples)
    details = write_wordings(
        engine or MockEngine(mostly),
        generator,
        checker,
        folder,
        count=count,
        tries=tries,
        spare=spare,
        budget=budget,
    )
    return SimpleNamespace(gates=checker.result, **details)


# What is asked


def test_every_kind_is_asked_for_in_turn() -> None:
    generator = ParaphraseGenerator(TASK)
    kinds = [generator.wording(number, "x").kind for number in range(2 * len(KINDS))]
    assert Counter(kinds) == dict.fromkeys(KINDS, 2)
    assert kinds[: len(KINDS)] != kinds[len(KINDS) :]


def test_prompts_differ_and_never_tell_the_format() -> None:
    generator = ParaphraseGenerator(TASK)
    asked = [generator.request(number) for number in range(60)]
    assert len({request.messages for request in asked}) == 60
    assert len({request.seed for request in asked}) == len({r.id for r in asked}) == 60
    for request in asked:
        assert [turn.role for turn in request.messages] == [
            "system",
            *["user", "assistant"] * 4,
            "user",
        ]
        last = request.messages[-1].content
        assert last.startswith("Reword as ")
        assert "Say whether it is right. " in last or "Is it so? " in last
        assert "JSON object" not in "".join(turn.content for turn in request.messages)
    assert generator.request(5) == ParaphraseGenerator(TASK).request(5)
    assert generator.request(5) != ParaphraseGenerator(TASK, seed=1).request(5)


def test_every_example_passes_the_gate_of_marks() -> None:
    checker = WordingChecker(verdicts())
    generator = ParaphraseGenerator(TASK)
    reasons = [checker.check(generator.wording(0, text)) for text in generator.examples]
    assert set(reasons) <= {None, "near_copy"}
    assert len(reasons) == 4 * len(KINDS)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Is it so? <sep>", "Is it so? <sep>"),
        ('"Is it so? <sep>"', "Is it so? <sep>"),
        ("Reworded: **Is it so? <sep>**\n\nI hope this helps!", "Is it so? <sep>"),
        ("Question: is it so?\nOutput: <sep>", "Question: is it so?\nOutput: <sep>"),
    ],
)
def test_the_wording_in_a_completion(text: str, said: str) -> None:
    found = ParaphraseGenerator(TASK).wording(0, text).text
    assert found.replace("{query}", "").strip() == said
    assert found.count("{query}") == 1
    assert (
        ParaphraseGenerator(TASK).wording(0, "Is {query} so? <sep>").text == "Is {query} so? <sep>"
    )


def test_the_place_of_the_input_fits_the_kind() -> None:
    generator = ParaphraseGenerator(TASK)
    found = [generator.wording(number, "x <sep>") for number in range(300)]
    starts = Counter((w.kind, w.text.startswith("{query}")) for w in found)
    assert starts["after-input", False] == starts["before-input", True] == 0
    assert starts["question", True] and starts["question", False]


def test_a_request_that_names_the_format_is_refused_before_anything_is_asked() -> None:
    with pytest.raises(InputError, match=r"names the format \(json\).*without it \(--request\)"):
        ParaphraseGenerator(replace(TASK, request="Say it in JSON."))


# Writing


def test_enough_pass(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert len(done.gates.accepted) == 20
    assert done.gates.counts["no_token"] > 5
    assert done.tries == len(done.gates.accepted) + len(done.gates.rejected)
    lines = [json.loads(line) for line in written(tmp_path)]
    assert done.tokens == sum(line["tokens"] for line in lines if line["number"] < done.tries)
    assert done.accepted_share == round(done.gates.share, 4)


def written(folder: Path) -> list[str]:
    return (folder / "written.jsonl").read_text().splitlines()


def test_a_rerun_asks_nothing_and_more_goes_on(tmp_path: Path) -> None:
    first = run(tmp_path)
    asked = written(tmp_path)

    def unasked(request: Request) -> str:
        raise AssertionError("asked again")

    assert run(tmp_path, MockEngine(unasked)).gates == first.gates
    assert written(tmp_path) == asked
    more = run(tmp_path, count=40, tries=200)
    assert more.gates.accepted[:20] == first.gates.accepted[:20]
    assert written(tmp_path)[: len(asked)] == asked


class KilledError(Exception):
    pass


class Dying(MockEngine):
    """Ends after so many completions."""

    left = 10

    def generate(
        self, requests: Iterable[Request | None], sampling: Sampling
    ) -> Iterator[Completion]:
        for completion in super().generate(requests, sampling):
            yield completion
            self.left -= 1
            if not self.left:
                raise KilledError


def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    with pytest.raises(KilledError):
        run(tmp_path / "killed", Dying(mostly))
    begun = written(tmp_path / "killed")
    assert len(begun) == 10
    with (tmp_path / "killed" / "written.jsonl").open("a") as file:
        file.write('{"number": 3')
    assert run(tmp_path / "killed").gates == whole.gates
    assert written(tmp_path / "killed")[:10] == begun


def test_never_a_passing_wording(tmp_path: Path) -> None:
    def never(request: Request) -> str:
        return f"Say {WORDS[request.seed % 600]} {WORDS[request.seed % 599]}."

    with pytest.raises(InputError) as caught:
        run(tmp_path, MockEngine(never), count=5, tries=50)
    message = str(caught.value)
    assert message.startswith(
        "0 of 5 wordings passed in 50 tries; no_token rejects most, 50 of 50: "
    )
    assert len(re.findall(r"'[^']*Say [^']*'", message)) == 3
    assert "raise --tries" in message
    assert len(written(tmp_path)) == 50


def test_a_budget_of_tokens_is_never_exceeded(tmp_path: Path) -> None:
    def spent() -> int:
        rows = [json.loads(line) for line in written(tmp_path)]
        return sum(row["tokens"] + row["prompt_tokens"] for row in rows)

    def budget(tokens: int) -> Budget:
        return Budget(Limits(tokens=tokens), None)

    with pytest.raises(InputError, match=r"budget is spent after \d+ texts.* raise it and rerun"):
        run(tmp_path, budget=budget(4_000))
    assert 0 < spent() <= 4_000
    with pytest.raises(InputError, match="budget is spent"):
        run(tmp_path, MockEngine(lambda _: pytest.fail("asked")), budget=budget(spent()))
    assert run(tmp_path, budget=budget(10**6)).gates == run(tmp_path / "other").gates


def test_spare_ones_only_while_tries_are_left(tmp_path: Path) -> None:
    assert len(run(tmp_path / "a", spare=10).gates.accepted) == 30
    short = run(tmp_path / "b", count=10, spare=50, tries=40)
    assert 10 <= len(short.gates.accepted) < 60
    assert short.tries == 40
