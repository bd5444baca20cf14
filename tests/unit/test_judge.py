"""A judge rejects answers and wordings with a reason, and gets each request once."""

import json
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from api_engines import api_environment  # noqa: F401
from command_line import Delia, refused
from killing import lines_in, run_to_end, stop_when
from openai_server import Call, OpenAIServer, Reply, answer, refusal
from recording_engine import QUERIES, RecordingEngine, interrupted_after, run
from wordings import TEST, TRAIN, verdicts

from delia_data.diversify import make_task_folder
from delia_data.diversify.check import WordingChecker
from delia_data.engines import FREE, Completion, MockEngine, Prices, Request, Sampling
from delia_data.errors import EngineError, InputError
from delia_data.mixing import read_task_rows
from delia_data.outputs import is_finished, read_manifest
from delia_data.records import Rejection
from delia_data.sampling import Judge, Limits, Query, default_filters, estimate, read_cache, sample
from delia_data.sampling.similarity import Duplicates
from delia_data.tasks import Wording

ODD = [query for query in QUERIES[:20] if "3" in query.text or "7" in query.text]


def verdict(text: str) -> str:
    if "number 7." in text:
        return "I cannot say."
    return "No: the number is odd.\nReally." if "3" in text or "7" in text else "Yes, it is fine."


def odd(text: str) -> bool:
    return any(query.text in text for query in ODD)


def test_a_judge_rejects_pairs_with_its_reason(tmp_path: Path) -> None:
    judge = RecordingEngine(verdict)
    manifest = run(RecordingEngine(), tmp_path, filters=(Judge(judge.engine),))
    assert manifest.rows == {"asked": 25, "kept": 20}
    assert manifest.dropped == {"judge": 4, "judge_unclear": 1}
    assert not [record for record in read_cache(tmp_path) if odd(record.query)]
    rejected = pq.read_table(tmp_path / "rejected-00000.parquet").to_pylist()
    reasons = {row["reason"]: row["detail"] for row in rejected}
    assert reasons == {"judge": "the number is odd.", "judge_unclear": "I cannot say."}
    (described,) = manifest.settings["filters"]
    assert described["filter"] == "judge"
    assert described["by"] == {"engine": "mock", "model": {"name": "mock"}}
    prompt = judge.requests[0].messages[-1].content
    assert QUERIES[0].text in prompt
    assert "An answer to" in prompt
    assert described["question"] in prompt


def test_only_pairs_that_pass_the_filters_before_are_judged(tmp_path: Path) -> None:
    judge = RecordingEngine(lambda _: "yes")
    same = RecordingEngine(lambda query: "" if "1" in query else "The same answer for everyone.")
    filters = default_filters(judge=judge.engine)
    assert [type(each) for each in filters[-2:]] == [Judge, type(default_filters()[-1])]
    run(same, tmp_path, filters=filters)
    assert not [prompt for prompt in judge.queries if "number 1" in prompt]


def test_a_killed_run_asks_neither_the_model_nor_the_judge_again(tmp_path: Path) -> None:
    first = RecordingEngine(interrupted_after(9, verdict))
    with pytest.raises(KeyboardInterrupt):
        run(RecordingEngine(), tmp_path, filters=(Judge(first.engine),))
    judge, asked = RecordingEngine(verdict), RecordingEngine()
    manifest = run(asked, tmp_path, filters=(Judge(judge.engine),))
    assert manifest.rows == {"asked": 25, "kept": 20}
    assert not set(first.queries[:9]) & set(judge.queries)
    assert asked.queries == [query.text for query in QUERIES[20:25]], "the others were put aside"
    assert not (tmp_path / "unjudged.jsonl").exists()
    # Without the judge, the rows that it rejected come back.
    manifest = run(RecordingEngine(), tmp_path, target=26)
    assert manifest.rows == {"asked": 26, "kept": 26}
    assert manifest.dropped == {}


class Batches(MockEngine):
    """A judge that answers out of order, and records the size of each batch."""

    def __init__(self) -> None:
        super().__init__(lambda request: verdict(request.messages[-1].content), shuffle=8)
        self.sizes: list[int] = []

    def generate(
        self, requests: Iterable[Request | None], sampling: Sampling
    ) -> Iterator[Completion]:
        taken = list(requests)
        self.sizes.append(len(taken))
        return super().generate(taken, sampling)


def turn(request: Request) -> str:
    """Return an answer, or a user's turn."""
    thing = " ".join(["river", "lamp", "stone", "bread"][int(c, 16) % 4] for c in request.id[-9:-3])
    return f" say of the {thing} in it?" if request.role == "user" else f"About a {thing}."


@pytest.mark.parametrize(("shuffle", "turns"), [(1, 1), (16, 1), (16, 2)])
def test_a_batch_of_verdicts_gives_the_rows_of_single_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shuffle: int, turns: int
) -> None:
    queries = [Query(f"Tell me about number {i}.", "explain") for i in range(300)]
    judges = {64: Batches(), 1: Batches()}
    for size, judge in judges.items():
        monkeypatch.setattr("delia_data.sampling.schedule._JUDGED_AT_ONCE", size)
        engine = MockEngine(turn, shuffle=shuffle)
        given: dict[str, Any] = {"filters": (Judge(judge), Duplicates(None)), "turns": turns}
        sample(engine, queries, tmp_path / str(size), target=150, **given)
    (one, first), (other, second) = (
        (read_manifest(tmp_path / str(size)), read_cache(tmp_path / str(size))) for size in judges
    )
    assert first == second and one.rows == other.rows and one.dropped == other.dropped
    assert judges[64].sizes[:2] == [64, 64] and len(judges[64].sizes) < 12
    assert set(judges[1].sizes) == {1}
    assert sum(judges[64].sizes) == sum(judges[1].sizes) >= one.rows["asked"]
    assert one.rows["kept"] > 100


def test_a_judge_that_fails_ends_the_run(tmp_path: Path) -> None:
    bad = RecordingEngine(fail=lambda text: "number 4." in text)
    with pytest.raises(EngineError, match=r"the judge failed \(the mock engine failed on purpose"):
        run(RecordingEngine(lambda _: "yes"), tmp_path, filters=(Judge(bad.engine),))
    assert len([prompt for prompt in bad.queries if "number 4." in prompt]) == 3
    assert not is_finished(tmp_path)
    good = RecordingEngine(lambda _: "yes")
    assert run(RecordingEngine(), tmp_path, filters=(Judge(good.engine),)).rows["kept"] == 20
    assert not [prompt for prompt in good.queries if "number 3." in prompt]


def test_verdicts_cost_money(tmp_path: Path) -> None:
    paid = Judge(RecordingEngine(lambda _: "yes", prices=Prices(0, 0.5)).engine)
    manifest = run(RecordingEngine(prices=FREE), tmp_path / "cache", target=4, filters=(paid,))
    assert manifest.details["cost_usd"] == 4 * 0.5
    assert manifest.details["tokens"] == 4 * 8
    estimated = estimate(MockEngine(), QUERIES, target=10, filters=(paid,), rows=5)
    assert estimated.dollars is not None
    assert estimated.dollars.value == 10 * 0.5
    limits = Limits(dollars=9)
    with pytest.raises(InputError, match="--budget-usd does not limit what the judge costs"):
        run(RecordingEngine(prices=FREE), tmp_path / "limited", filters=(paid,), limits=limits)
    free = Judge(RecordingEngine(lambda _: "yes", prices=FREE).engine)
    assert run(RecordingEngine(prices=FREE), tmp_path / "free", filters=(free,), limits=limits)
    engine = RecordingEngine(prices=FREE)
    with pytest.raises(InputError, match="give the judge another engine"):
        run(engine, tmp_path / "same", filters=(Judge(engine.engine),))


def test_a_judge_of_another_engine_from_the_command_line(
    delia: Delia, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(model: str) -> MockEngine:
        if model == "strict":
            return MockEngine(lambda request: verdict(request.messages[-1].content))
        return MockEngine(lambda request: f"About {request.messages[-1].content}")

    monkeypatch.setattr(MockEngine, "load", load)
    rows = "".join(json.dumps({"query": query.text}) + "\n" for query in QUERIES)
    (tmp_path / "queries.jsonl").write_text(rows)
    arguments = ["sample", tmp_path / "cache", "--engine", "mock", "--target", 20]
    arguments += ["--queries", tmp_path / "queries.jsonl", "--near-duplicates", 0]
    for judge in ("mock:strict", "strict"):
        result = delia(*arguments, "--judge", judge)
        assert result.code == 0, result.err
        assert "accepted share: 100.0% before the judge, 80.0% after" in result.out
    refused(delia(*arguments[:-2], "--judge", "http://127.0.0.1:1/v1"), "give URL#MODEL")
    refused(delia(*arguments, "--near-duplicates", 0.9, "--judge", "other:x"), "filters was")
    result = delia(*arguments, "--target", 21)
    assert result.code == 0, result.err
    assert "20 of 21 pairs have earlier settings" in result.out


def scripted(call: Call) -> Reply:
    text = call.question
    return answer(verdict(text) if "yes or no" in text else f"About {text}")


def test_model_and_judge_on_a_server(delia: Delia, tmp_path: Path) -> None:
    """The judge is asked while the requests of the model are in flight."""
    rows = "".join(json.dumps({"query": query.text}) + "\n" for query in QUERIES)
    (tmp_path / "queries.jsonl").write_text(rows)
    failing = iter([refusal(500), refusal(429)])

    def reply(call: Call) -> Reply:
        return (next(failing, None) if "yes or no" in call.question else None) or scripted(call)

    with OpenAIServer(reply) as server:
        arguments = ["sample", tmp_path / "cache", "--target", 20, "--near-duplicates", 0]
        arguments += ["--engine", "openai", "--api-base", server.url, "--model", "stand-in"]
        arguments += ["--queries", tmp_path / "queries.jsonl", "--concurrency", 4]
        result = delia(*arguments, "--judge", f"{server.url}#strict")
        assert result.code == 0, result.err
    assert read_manifest(tmp_path / "cache").rows["kept"] == 20
    assert not [record for record in read_cache(tmp_path / "cache") if odd(record.query)]
    assert {call.body["model"] for call in server.calls} == {"stand-in", "strict"}


# Wordings


def about_wordings(text: str) -> str:
    return "no: nobody talks like that" if "strict teacher" in text else "Yes."


def diversified(folder: Path, judge: RecordingEngine, **options: Any) -> Any:
    wordings = [*TRAIN, *TEST]
    given = {"wordings": wordings, "embed": False, "judge": judge.engine, **options}
    return make_task_folder(verdicts(), folder, **given)


def test_a_judge_rejects_wordings_and_is_not_asked_again(tmp_path: Path) -> None:
    judge = RecordingEngine(about_wordings)
    made = diversified(tmp_path, judge)
    assert len(judge.requests) == len(made.gates.accepted) + 1
    assert made.manifest.dropped == {"judge": 1}
    lines = [json.loads(line) for line in (tmp_path / "rejected.jsonl").read_text().splitlines()]
    assert [line["reason"] for line in lines] == ["judge"]
    assert lines[0]["detail"] == "nobody talks like that"
    assert "strict teacher" in lines[0]["text"]
    entry = made.manifest.details["judge"]
    count = len(judge.requests)
    assert entry["accepted_share_before"] == 1
    assert entry["accepted_share_after"] == round((count - 1) / count, 4)
    assert entry["by"] == {"engine": "mock", "model": {"name": "mock"}}
    again = RecordingEngine(about_wordings)
    assert diversified(tmp_path, again).manifest == made.manifest
    assert again.requests == []
    assert read_task_rows(tmp_path).train == made.rows.train
    assert read_manifest(tmp_path, verify=True) == made.manifest


def test_a_copy_of_a_wording_that_the_judge_rejects_is_judged() -> None:
    wordings = [
        Wording("Mark the paper of this pupil and reply in <sep>: {query}", split="train"),
        Wording("Mark the paper of this pupil and reply in <sep>! {query}", split="train"),
        Wording("Does it hold what somebody claims here? Use <sep>. {query}", split="train"),
    ]
    asked: list[list[str]] = []

    def judge(texts: Sequence[str]) -> dict[str, Rejection | None]:
        asked.append(list(texts))
        return {text: Rejection("judge", "odd") if "<sep>:" in text else None for text in texts}

    found = WordingChecker(verdicts(), judge=judge).check_all(wordings)
    texts = [wording.text for wording in wordings]
    assert asked == [[texts[0], texts[2]], [texts[1]]]
    single = WordingChecker(verdicts(), judge=judge)
    reasons = [single.check(wording) for wording in wordings]
    assert reasons == ["judge", None, None]
    assert single.result == found


def test_verdicts_on_wordings_survive_failures(tmp_path: Path) -> None:
    bad = RecordingEngine(about_wordings, fail=lambda text: "think twice" in text)
    with pytest.raises(EngineError, match="the judge failed"):
        diversified(tmp_path, bad)
    asked = set(bad.queries)
    again = RecordingEngine(about_wordings)
    assert diversified(tmp_path, again).manifest.dropped == {"judge": 1}
    assert len([text for text in again.queries if text in asked]) == 1
    assert not is_finished(tmp_path / "judged")


def test_a_paid_judge_and_a_limit_in_dollars(tmp_path: Path) -> None:
    paid = RecordingEngine(about_wordings, prices=Prices(0, 1))
    assert diversified(tmp_path / "paid", paid).manifest.details["judge"]["cost_usd"] > 0
    with pytest.raises(InputError, match="does not limit what the judge costs"):
        diversified(tmp_path / "limited", paid, limits=Limits(dollars=1))


def test_wordings_of_a_model_are_judged(
    delia: Delia, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.csv").write_text("question,label\nIs it?,no\nWhy?,yes\nWho?,no\n")

    def load(model: str) -> MockEngine:
        if model == "strict":
            return MockEngine(
                lambda r: "no: odd" if int(r.seed) % 3 == 0 else "yes", writes_users=False
            )
        names = [
            "amber",
            "birch",
            "cedar",
            "daisy",
            "elder",
            "fig",
            "grass",
            "hazel",
            "iris",
            "oak",
        ]
        return MockEngine(
            lambda r: (
                f"Decide about {' '.join(names[(r.seed >> 4 * i) % 10] for i in range(6))}. "
                "Reply in <sep>."
            )
        )

    monkeypatch.setattr(MockEngine, "load", load)
    monkeypatch.setattr("delia_data.diversify.folder.load_detector", lambda: lambda _: {"en": 1.0})
    arguments = ["diversify", tmp_path / "task", "--task", tmp_path / "mine.csv"]
    arguments += ["--query", "{question}", "--answer", "{label}", "--instruction", "Say if so."]
    arguments += ["--stands-for", "one word", "--request", "Decide."]
    arguments += ["--wordings-from", "model", "--wordings", 8, "--no-embeddings", "--lenient"]
    arguments += ["--engine", "mock", "--judge", "mock:strict"]
    result = delia(*arguments)
    assert result.code == 0, result.err
    manifest = read_manifest(tmp_path / "task")
    assert manifest.dropped["judge"] > 0
    shares = [manifest.details["judge"][f"accepted_share_{when}"] for when in ("before", "after")]
    assert shares[0] > shares[1] == manifest.details["writing"]["accepted_share"]
    printed = f"accepted share: {shares[0]:.1%} before the judge, {shares[1]:.1%} after"
    assert printed in result.out
    files = {path: path.read_bytes() for path in (tmp_path / "task").rglob("*.jsonl")}
    assert delia(*arguments).code == 0
    assert {path: path.read_bytes() for path in files} == files


KILLED = """
    import os, sys
    from wordings import TEST, TRAIN, verdicts
    from delia_data.diversify import make_task_folder
    from delia_data.engines import MockEngine

    folder, log, stall_s = sys.argv[1:]
    asked = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def verdict(request):
        os.write(asked, request.id.encode() + b"\\n")
        return "no: odd" if "teacher" in request.messages[-1].content else "yes"

    make_task_folder(
        verdicts(), folder, wordings=[*TRAIN, *TEST], embed=False,
        judge=MockEngine(verdict, stall_s=float(stall_s)),
    )
"""


def test_verdicts_on_wordings_survive_a_kill(tmp_path: Path) -> None:
    folder, log = tmp_path / "task", tmp_path / "log"
    work = ("-c", textwrap.dedent(KILLED), folder, log)
    stop_when(lines_in(log, 3), *work, 0.3)
    assert not is_finished(folder)
    stored = (folder / "judged" / "written.jsonl").read_text().count("\n")
    assert stored >= 2
    before = log.read_text().splitlines()
    run_to_end(*work, 0)
    after = log.read_text().splitlines()[len(before) :]
    assert len(set(before) & set(after)) == len(before) - stored <= 1
    assert len(set(before) | set(after)) == len(TRAIN) + len(TEST)
    assert read_manifest(folder).dropped == {"judge": 1}
