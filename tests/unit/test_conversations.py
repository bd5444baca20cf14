"""Pairs of several turns: the model writes the user's turns, and answers each of them."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from chat_models import marked_tokenizer, shipped_template
from command_line import Delia, refused
from mixtures import task_rows
from recording_engine import QUERIES, lines

from delia_data.engines import Completion, MockEngine, Prices, Request, Sampling
from delia_data.engines.local import encode_prompt
from delia_data.engines.transformers import TransformersEngine
from delia_data.errors import FormatError, InputError, SettingsError
from delia_data.mixing import mix, save_mixture
from delia_data.outputs import Manifest, read_manifest
from delia_data.ranking import rank
from delia_data.records import Message, Record
from delia_data.sampling import (
    Judge,
    Limits,
    Query,
    default_filters,
    estimate,
    measure_quality,
    read_cache,
    sample,
    schedule,
)
from delia_data.sampling.generated_queries import STARTS
from delia_data.sampling.similarity import Duplicates
from delia_data.tokens import encode, lint_rows
from delia_data.training.data import encode_rows, open_training_rows

WORDS = [
    "river",
    "lamp",
    "stone",
    "window",
    "garden",
    "letter",
    "bread",
    "winter",
    "music",
    "table",
    "bridge",
    "apple",
]


def word(request: Request, place: int) -> str:
    return WORDS[rank(request.seed, str(place), "word") % len(WORDS)]


def speak(request: Request) -> str:
    """Return a turn that depends on all turns before it."""
    said = " ".join(f"{word(request, i)}" for i in range(6))
    if request.role == "user":
        return f" say of {said}, with turn {len(request.messages)} in your mind?"
    heard = sum(len(turn.content) for turn in request.messages)
    return f"After {heard} letters: {said}."


class Recorder(MockEngine):
    """A mock engine that keeps its requests and completions."""

    def __init__(self, answer: Callable[[Request], str] = speak, **options: Any) -> None:
        super().__init__(answer, **options)
        self.seen: list[tuple[Request, Completion]] = []

    def _complete(self, request: Request, sampling: Sampling) -> Completion:
        completion = super()._complete(request, sampling)
        self.seen.append((request, completion))
        return completion


def run(engine: MockEngine, folder: Path, **options: Any) -> Manifest:
    given = {"target": 12, "turns": 3, "filters": (), **options}
    return sample(engine, QUERIES, folder, **given)


def test_every_turn_follows_from_those_before(tmp_path: Path) -> None:
    engine = Recorder()
    manifest = run(engine, tmp_path, target=5, sampling=Sampling(max_tokens=100))
    assert manifest.settings["turns"] == 3
    assert manifest.rows == {"asked": 5, "kept": 5}
    asked = {request.messages: (request, completion) for request, completion in engine.seen}
    records = read_cache(tmp_path)
    assert [record.messages[0].content for record in records] == [q.text for q in QUERIES[:5]]
    for record in records:
        assert [turn.role for turn in record.messages] == ["user", "assistant"] * 3
        for place, turn in enumerate(record.messages[1:], start=1):
            request, completion = asked[record.messages[:place]]
            assert (turn.role, turn.content) == (request.role, completion.text)
            if turn.role == "user":
                assert request.prefill in STARTS and turn.content.startswith(request.prefill)
                assert request.max_tokens == 64
    assert len(engine.seen) == 25
    assert len({request.seed for request, _ in engine.seen}) == 25
    assert len({request.prefill for request, _ in engine.seen}) > 3
    tokens = sum(completion.tokens for _, completion in engine.seen)
    assert manifest.details["tokens"] == tokens
    prompts = sum(completion.prompt_tokens for _, completion in engine.seen)
    assert manifest.details["prompt_tokens"] == prompts


@pytest.mark.parametrize("shuffle", [7, 64])
def test_batches_do_not_change_the_rows(tmp_path: Path, shuffle: int) -> None:
    filters = default_filters
    one = run(Recorder(), tmp_path / "one", filters=filters())
    other = run(Recorder(shuffle=shuffle), tmp_path / "other", filters=filters())
    assert one == other


@pytest.mark.parametrize("after", [3, 17, 31, 58])
def test_a_kill_loses_no_finished_conversation(tmp_path: Path, after: int) -> None:
    class KilledError(Exception):
        pass

    left = iter(range(after))

    def die(request: Request) -> str:
        if next(left, None) is None:
            raise KilledError
        return speak(request)

    whole = run(Recorder(), tmp_path / "whole")
    with pytest.raises(KilledError):
        run(Recorder(die, shuffle=4), tmp_path / "killed")
    finished = lines(tmp_path / "killed")
    assert all(len(row.followups) == 4 for row in finished)
    assert len(finished) <= after // 5
    again = Recorder(shuffle=4)
    assert run(again, tmp_path / "killed") == whole
    first = {r.messages[0].content for r, _ in again.seen if len(r.messages) == 1}
    assert first == {q.text for q in QUERIES[:12]} - {row.query for row in finished}


def test_growth_gives_the_rows_of_a_larger_run(tmp_path: Path) -> None:
    run(Recorder(), tmp_path / "grown", target=4)
    run(Recorder(), tmp_path / "grown")
    run(Recorder(), tmp_path / "whole")
    assert read_cache(tmp_path / "grown") == read_cache(tmp_path / "whole")
    with pytest.raises(SettingsError, match="turns was 3 and is now None"):
        run(Recorder(), tmp_path / "grown", turns=1, target=20)


BAD: dict[str, tuple[Callable[[Request], bool], str, str, str]] = {
    "first answer": (lambda r: len(r.messages) == 1, "", "empty", "turn 1"),
    "second answer": (lambda r: len(r.messages) == 3, "", "empty", "turn 2"),
    "last answer": (
        lambda r: len(r.messages) == 5,
        "I'm sorry, but I cannot help with that.",
        "refusal",
        "turn 3",
    ),
    "cut off": (lambda r: len(r.messages) == 3, "word " * 90, "truncated", "turn 2"),
    "second query": (
        lambda r: len(r.messages) == 2,
        " say it? <|im_end|>",
        "user_turn",
        "turn 2: chat_marks",
    ),
    "third query": (lambda r: len(r.messages) == 4, " say " * 90, "user_turn", "turn 3: cut_off"),
    "said before": (lambda r: len(r.messages) == 4, "SAME", "user_turn", "turn 3: near_duplicate"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_rejected_row_names_the_turn(tmp_path: Path, case: str) -> None:
    is_bad, text, reason, detail = BAD[case]

    def answer(request: Request) -> str:
        if not request.messages[0].content.endswith("3.") or not is_bad(request):
            return speak(request)
        if text == "SAME":
            return " " + request.messages[2].content.removeprefix(request.prefill).strip()
        return text

    engine = Recorder(answer)
    options = {"filters": default_filters(), "sampling": Sampling(max_tokens=70)}
    manifest = run(engine, tmp_path, keep_rejected=True, **options)
    assert manifest.dropped == {reason: 1}
    assert manifest.rows == {"asked": 13, "kept": 12}
    rejected = pq.read_table(tmp_path / "rejected-00000.parquet").to_pylist()
    assert [(row["reason"], row["detail"]) for row in rejected] == [(reason, detail)]
    last = [(r, c) for r, c in engine.seen if r.messages[0].content == QUERIES[3].text][-1]
    assert is_bad(last[0]), "nothing is asked after the bad turn"
    exchange = rejected[0]["query"], rejected[0]["answer"]
    if last[0].role == "user":
        assert exchange == (last[1].text, "")
    else:
        assert exchange == (last[0].messages[-1].content, last[1].text)


def test_rejected_rows_are_requested_again_when_filters_are_left_out(tmp_path: Path) -> None:
    def answer(request: Request) -> str:
        refuses = len(request.messages) == 3 and "number 3." in request.messages[0].content
        return "I'm sorry, but I cannot help with that." if refuses else speak(request)

    def grown(target: int, keep_refusals: bool) -> tuple[Manifest, Recorder]:
        engine = Recorder(answer)
        filters = default_filters(keep_refusals=keep_refusals)
        return run(engine, tmp_path, target=target, filters=filters, keep_rejected=True), engine

    assert grown(6, False)[0].dropped == {"refusal": 1}
    manifest, engine = grown(8, True)
    assert manifest.dropped == {}
    assert any("number 3." in request.messages[0].content for request, _ in engine.seen)
    assert all(len(record.messages) == 6 for record in read_cache(tmp_path))
    assert QUERIES[3].text in {record.messages[0].content for record in read_cache(tmp_path)}


def test_a_failed_turn_is_repeated_alone(tmp_path: Path) -> None:
    failed: list[str] = []

    def fail(request: Request) -> bool:
        fails = len(request.messages) in (3, 4) and request.id not in failed
        failed.extend([request.id] if fails else [])
        return fails

    engine = Recorder(fail=fail)
    manifest = run(engine, tmp_path, target=4)
    assert manifest.rows == {"asked": 4, "kept": 4}
    assert len(engine.seen) == 4 * (5 + 2)
    run(Recorder(), tmp_path / "whole", target=4)
    assert read_cache(tmp_path) == read_cache(tmp_path / "whole")
    always = Recorder(fail=lambda request: len(request.messages) == 2)
    with pytest.raises(InputError, match=r"no answer was accepted \(failed: 2|failed on purpose"):
        sample(always, QUERIES[:2], tmp_path / "none", target=1, turns=2, filters=())


@pytest.mark.parametrize("limit", [2500, 4000, 9000])
@pytest.mark.parametrize("shuffle", [1, 8])
def test_a_budget_pays_for_all_turns(tmp_path: Path, limit: int, shuffle: int) -> None:
    engine = Recorder(shuffle=shuffle, prices=Prices(1e-6, 2e-6))
    options = {"target": 60, "sampling": Sampling(max_tokens=70)}
    manifest = run(engine, tmp_path, limits=Limits(tokens=limit), **options)
    assert manifest.details["stopped"] == "budget"
    spent = sum(c.tokens + c.prompt_tokens for _, c in engine.seen)
    assert spent == manifest.details["tokens"] + manifest.details["prompt_tokens"] <= limit
    assert len(engine.seen) == 5 * manifest.rows["kept"], "no conversation is begun in vain"
    cost = sum(c.cost or 0 for _, c in engine.seen)
    assert manifest.details["cost_usd"] == pytest.approx(cost)
    more = Recorder(prices=Prices(1e-6, 2e-6))
    dollars = 2 * cost
    manifest = run(more, tmp_path, limits=Limits(dollars=dollars), **options)
    assert cost <= manifest.details["cost_usd"] <= dollars


def test_an_estimate_contains_the_figures_of_the_run(tmp_path: Path) -> None:
    queries = [Query(f"Tell me about number {i}.", "explain") for i in range(300)]

    def answer(request: Request) -> str:
        refuses = len(request.messages) == 3 and request.seed % 4 == 0
        return "" if refuses else speak(request)

    engine = MockEngine(answer, prices=Prices(1e-6, 3e-6), shuffle=8)
    options: dict[str, Any] = {"target": 150, "turns": 2}
    expected = estimate(engine, queries, rows=60, filters=default_filters(), **options)
    details = sample(engine, queries, tmp_path, filters=default_filters(), **options)
    for interval, value in (
        (expected.rows, details.rows["asked"]),
        (expected.tokens, details.details["tokens"]),
        (expected.prompt_tokens, details.details["prompt_tokens"]),
        (expected.dollars, details.details["cost_usd"]),
    ):
        assert interval is not None
        assert interval.low <= value <= interval.high
    assert expected.rejected["empty"] > 5


@pytest.mark.parametrize("differs", [1, 3, None])
def test_conversations_are_compared_as_a_whole(tmp_path: Path, differs: int | None) -> None:
    def answer(request: Request) -> str:
        if request.role == "user":
            return " say of rivers and of lamps and of stones in the winter garden at night?"
        end = request.seed if len(request.messages) == differs else "river"
        return f"A letter, a table and a bridge of stone by the garden, and the {end}."

    def sampled(target: int) -> Manifest:
        filters = [Duplicates(None)]
        options: dict[str, Any] = {"target": target, "turns": 2, "filters": filters}
        # The user's turns after queries in another language begin as the model likes.
        queries = [Query(f"Напишите о реке {i}.", "explain") for i in range(9)]
        return sample(MockEngine(answer), queries, tmp_path, **options)

    assert sampled(1).rows == {"asked": 1, "kept": 1}
    manifest = sampled(2)
    if differs is None:
        assert manifest.rows == {"asked": 9, "kept": 1}
        assert manifest.dropped == {"duplicate": 8}
    else:
        assert manifest.rows == {"asked": 2, "kept": 2}


def test_a_judge_reads_the_conversation(tmp_path: Path) -> None:
    judged: list[str] = []

    def verdict(request: Request) -> str:
        judged.append(request.messages[-1].content)
        return "yes: fine"

    engine = Recorder()
    run(engine, tmp_path, target=1, turns=2, filters=[Judge(MockEngine(verdict))])
    (record,) = read_cache(tmp_path)
    assert len(judged) == 2
    turns = [turn.content for turn in record.messages]
    assert judged[0].startswith(f"Request:\n{turns[0]}\n\nAnswer:\n{turns[1]}\n")
    said = "\n\n".join(turns[:3])
    assert judged[1].startswith(f"Request:\n{said}\n\nAnswer:\n{turns[3]}\n")


@pytest.mark.parametrize("shuffle", [1, 8])
def test_conversations_that_wait_for_a_judge_are_completed(tmp_path: Path, shuffle: int) -> None:
    judge = Judge(MockEngine(lambda request: "yes: fine"))
    engine = Recorder(shuffle=shuffle)
    manifest = sample(engine, QUERIES[:3], tmp_path, target=9, turns=3, filters=[judge])
    assert manifest.rows == {"asked": 3, "kept": 3}
    assert manifest.details["stopped"] == "queries"
    assert len(engine.seen) == 15


def test_system_turns_and_queries_in_other_languages(tmp_path: Path) -> None:
    queries = [Query("Напишите, пожалуйста, о реке и о саде.", "explain", system="Be brief.")]
    engine = Recorder(lambda r: "Какие ещё есть сады зимой?" if r.role == "user" else speak(r))
    sample(engine, queries, tmp_path, target=1, turns=2, filters=())
    (record,) = read_cache(tmp_path)
    assert [turn.role for turn in record.messages] == ["system", *["user", "assistant"] * 2]
    assert all(request.messages[0] == Message("system", "Be brief.") for request, _ in engine.seen)
    assert {request.prefill for request, _ in engine.seen} == {""}


def test_thoughts_of_all_turns_are_kept(tmp_path: Path) -> None:
    class Thinker(Recorder):
        def _complete(self, request: Request, sampling: Sampling) -> Completion:
            completion = super()._complete(request, sampling)
            if request.role == "user":
                return completion
            thoughts = f"Thought {len(request.messages)}"
            return Completion(
                request.id, completion.text, 3, "stop", reasoning=True, thoughts=thoughts
            )

    manifest = run(Thinker(), tmp_path, target=2, turns=2, keep_reasoning=True)
    rows = pq.read_table(tmp_path / "pairs-00000.parquet").to_pylist()
    assert [row["reasoning"] for row in rows] == ["Thought 1\n\nThought 3"] * 2
    assert manifest.details["reasoning_removed"] == 2


def test_what_cannot_be_sampled_is_refused(tmp_path: Path, tiny_tokenizer: Any) -> None:
    for call in (sample, estimate):
        options: dict[str, Any] = {"target": 1, "filters": ()}
        with pytest.raises(InputError, match="turns 0 is too few"):
            call(MockEngine(), QUERIES, tmp_path, turns=0, **options)
        with pytest.raises(InputError, match=r"'mock' cannot write .*use transformers or vllm, or"):
            call(MockEngine(writes_users=False), QUERIES, tmp_path, turns=2, **options)
        engine = Recorder()
        engine.tokenizer = tiny_tokenizer  # type: ignore[attr-defined]
        template = str(tiny_tokenizer.chat_template)
        tiny_tokenizer.chat_template = template.replace("m['content']", "m['content'] | lower")
        with pytest.raises(InputError, match=r"changes the user's turn.* leave out turns"):
            call(engine, QUERIES, tmp_path, turns=2, **options)
        tiny_tokenizer.chat_template = template
        assert not engine.seen


def test_the_command(delia: Delia, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MockEngine, "load", lambda model: MockEngine(speak))
    rows = [{"query": query.text} for query in QUERIES]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = ("--engine", "mock", "--queries", tmp_path / "q.jsonl", "--near-duplicates", 0)
    flags = (*common, "--turns", 2)
    result = delia("sample", tmp_path / "cache", *flags, "--target", 4)
    assert result.code == 0, result.err
    assert read_manifest(tmp_path / "cache").settings["turns"] == 2
    assert all(len(record.messages) == 4 for record in read_cache(tmp_path / "cache"))
    inherited = ("--from", tmp_path / "cache", "--queries", tmp_path / "q.jsonl", "--target", 6)
    result = delia("sample", tmp_path / "more", *inherited)
    assert result.code == 0, result.err
    assert [len(record.messages) for record in read_cache(tmp_path / "more")] == [4] * 6
    result = delia("sample", tmp_path / "e", *flags, "--target", 9, "--estimate", "--json")
    once = delia("sample", tmp_path / "e", *common, "--target", 9, "--estimate", "--json")
    assert json.loads(result.out)["tokens"]["value"] > 2 * json.loads(once.out)["tokens"]["value"]
    refused(delia("sample", tmp_path / "x", *common, "--target", 1, "--turns", 0), "turns 0")


@pytest.mark.parametrize("continuous", [True, False])
def test_a_model_continues_its_conversations(
    tmp_path: Path,
    tiny_tokenizer: Any,
    make_tiny_model: Any,
    monkeypatch: pytest.MonkeyPatch,
    continuous: bool,
) -> None:
    monkeypatch.setattr(schedule, "follow_up_fault", lambda *_: None)  # the model knows no words
    if not continuous:
        monkeypatch.setattr("delia_data.engines.transformers.is_supported", lambda _: False)
    model = make_tiny_model()
    sampling = Sampling(temperature=0.9, max_tokens=9)

    def sampled(name: str, batch_size: int) -> Sequence[Record]:
        engine = TransformersEngine(model, tiny_tokenizer, batch_size=batch_size)
        options: dict[str, Any] = {"target": 3, "turns": 2, "sampling": sampling, "filters": ()}
        sample(engine, QUERIES[:9], tmp_path / name, **options)
        return read_cache(tmp_path / name)

    records = sampled("one", 1)
    assert records == sampled("four", 4)
    engine = TransformersEngine(model, tiny_tokenizer)
    for record in records:
        *before, query, _ = record.messages
        assert [turn.role for turn in record.messages] == ["user", "assistant"] * 2
        assert query.content.startswith(STARTS)
        # The tokens that the model itself would say there are those that were sampled.
        request = Request("row", tuple(before), 0, "user", max_tokens=4)
        (completion,) = engine.generate([request], Sampling(temperature=0, max_tokens=9))
        assert completion.tokens <= 4
        text = tiny_tokenizer.decode(encode_prompt(tiny_tokenizer, request))
        assert text.endswith("<|end|><|user|>") and before[1].content in text
    usage = pq.read_table(tmp_path / "one" / "pairs-00000.parquet")["tokens"].to_pylist()
    assert max(usage) > 2 * 9, "the user's turn has a limit of its own"


class TestUses:
    """What comes after sampling takes pairs of several turns."""

    @pytest.fixture
    def cache(self, tmp_path: Path) -> Path:
        run(Recorder(), tmp_path / "cache", turns=2)
        return tmp_path / "cache"

    @pytest.mark.parametrize("format", ["messages", "prompt_completion", "sharegpt"])
    def test_mixtures(self, cache: Path, tmp_path: Path, format: Any) -> None:
        mixture = mix(task_rows(3), cache, ratio=4, format=format)
        save_mixture(mixture, tmp_path / "mixture")
        rows = open_training_rows(tmp_path / "mixture")
        pairs = {record.id for record, source in rows.records(["<sep>"]) if source == "cache"}
        assert pairs == {record.id for record in read_cache(cache)}
        with pytest.raises(FormatError, match=r"the cache has .*earlier turns"):
            mix(task_rows(3), cache, ratio=4, format="alpaca")

    def test_pairs_that_name_the_token_in_any_turn_are_dropped(self, cache: Path) -> None:
        records = read_cache(cache)
        turns = list(records[0].messages)
        turns[2] = Message("user", "What is <sep> about?")
        mixture = mix(task_rows(3), [*records, Record(tuple(turns))], ratio=4)
        assert mixture.manifest.dropped == {"names_token": 1}

    @pytest.mark.parametrize("loss", ["prompt-completion", "generation-marks"])
    def test_lint_labels_every_answer(self, cache: Path, tiny_tokenizer: Any, loss: Any) -> None:
        tiny_tokenizer.add_tokens(["<sep>"])
        if loss == "generation-marks":
            tiny_tokenizer.chat_template = (
                "{% for m in messages %}{{ '<|' + m['role'] + '|>' }}{% if m['role'] == 'assistant'"
                " %}{% generation %}{{ m['content'] + '<|end|>' }}{% endgeneration %}{% else %}"
                "{{ m['content'] + '<|end|>' }}{% endif %}{% endfor %}"
                "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
            )
        rows = [(record, "cache") for record in read_cache(cache)]
        report = lint_rows(rows, tiny_tokenizer, loss=loss)
        assert not report.problems
        counted = [len(turn.content) + 1 for row, _ in rows for turn in row.messages[1::2]]
        assert report.labelled == {"cache": sum(counted)}

    @pytest.mark.parametrize("pairs_loss", ["ce", "kl"])
    def test_training_labels_every_answer(
        self, cache: Path, tiny_tokenizer: Any, pairs_loss: Any
    ) -> None:
        from delia_data.training import TrainSettings

        tiny_tokenizer.add_tokens(["<sep>"])
        mixture = mix(task_rows(3), cache, ratio=4)
        settings = TrainSettings(model="tiny", pairs_loss=pairs_loss)
        rows = encode_rows(open_training_rows(mixture), tiny_tokenizer, settings).dataset
        labeled = [[i for i in row["labels"] if i != -100] for row in rows if not row["is_task"]]
        assert {tiny_tokenizer.decode(ids) for ids in labeled} == {
            f"{record.messages[1].content}<|end|>{record.answer}<|end|>"
            for record in read_cache(cache)
        }
        assert len(labeled) == 12

    def test_quality(self, cache: Path) -> None:
        quality = measure_quality(
            cache, scan=lambda text: ["turn"] if "in your mind" in text else []
        )
        assert (quality.pairs, quality.cut_off_share) == (12, None)
        assert quality.found == {"turn": 12}, "every turn is read"


ROW = Record(
    (
        Message("assistant", "Hello."),
        Message("user", "Why?"),
        Message("assistant", "So."),
        Message("user", "Really?"),
        Message("assistant", "Yes: two lines,\n\nhere."),
    )
)


@pytest.mark.parametrize(
    ("template", "answers"),
    [("qwen2_5", 2), ("llama3", 2), ("gemma4", 2), ("qwen3", 1), ("phi3", 1), ("gptoss", 1)],
)
def test_earlier_answers_are_labeled_if_the_template_writes_them_alike(
    template: str, answers: int
) -> None:
    tokenizer = marked_tokenizer(shipped_template(template))
    row = encode(tokenizer, ROW, every_answer=True)
    said = [turn.content for turn in ROW.messages if turn.role == "assistant"][-answers:]
    assert len(row.spans) == answers
    for (begin, end), text in zip(row.spans, said, strict=True):
        assert tokenizer.decode(row.ids[begin:end]).startswith(text)
    assert encode(tokenizer, ROW).spans == row.spans[-1:]
    assert not lint_rows([(ROW, "cache")], tokenizer, tokens=[]).problems
    task = lint_rows([(ROW, "task")], tokenizer, tokens=[])
    assert task.labelled["task"] == row.spans[-1][1] - row.spans[-1][0]
