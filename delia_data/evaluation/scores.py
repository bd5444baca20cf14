"""Grade answers, and compute the numbers of a system and the differences of two systems.

    answered row ── the task's format and scoring ──▶ outcomes     one line of rows.jsonl
    outcomes of the probes ── bootstrap over rows ──▶ Evaluation   evaluation.json
    two systems, row by row ──▶ Comparison

`NUMBERS` defines each number. A number that cannot be measured is absent, never 0, and `unknown`
says why. The untrained model, and the untrained model with the full instruction in the prompt, are
scored in the same way: the two bounds of a training.

A leak is a mark of the format (`AnswerFormat.marks`) in an answer that the untrained model's answer
to the same prompt does not have; after a request for other JSON, quotes and braces are no marks.
The leak of a system is that of the probe with the largest one, and its interval that of this
maximum.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from pydantic import TypeAdapter, ValidationError

from delia_data.errors import FormatError, InputError, SettingsError
from delia_data.evaluation.answer_format import (
    CONTENT,
    JSON_MARKS,
    AnswerFormat,
    parse_answer,
    plain_label,
)
from delia_data.evaluation.bootstrap import (
    Cell,
    Estimate,
    Numbers,
    Resampling,
    bootstrap,
    bootstrap_mean,
    cell,
    decimal,
)
from delia_data.evaluation.generation import MODEL, SYSTEMS, UNTRAINED, AnsweredRow
from delia_data.evaluation.keep import SIMILAR, Divergence, ends_in_mid_sentence, satisfies
from delia_data.evaluation.probes import LEAK_PROBES, EvalTask
from delia_data.evaluation.translation import CorpusMetric, score_corpus
from delia_data.outputs import atomic_path, from_json
from delia_data.tasks import chrf, exact

NO_FORMAT: Final = "none"
"""Column of answers that are in no format of the tasks asked."""
BOTH: Final = "both"
"""Column of answers that are in the formats of both tokens asked."""
VERSION: Final = 2
"""Version of `evaluation.json`; the numbers of earlier ones mean something else."""


class Number(NamedTuple):
    """One number of an evaluation.

    Attributes:
        name: Its key.
        title: Its name for readers.
        unit: `share` of rows, `nats` per token, `tokens`, or `score` from 0 to 1.
        higher: Whether more is better.
        probes: Probes that it needs.
        meaning: Its definition in a few words.
    """

    name: str
    title: str
    unit: Literal["share", "nats", "tokens", "score"]
    higher: bool
    probes: tuple[str, ...]
    meaning: str

    def text(self, value: float, *, signed: bool = False) -> str:
        """Return a value in this number's unit, such as `95%`, `0.0046` or `112`.

        A difference is written with its sign; of shares, in percentage points.
        """
        match self.unit:
            case "nats":
                return decimal(value, 4, signed=signed)
            case "tokens":
                return decimal(value, 0, signed=signed)
        return decimal(100 * value, 0, signed=signed) + ("" if signed else "%")

    def cell(self, estimate: Estimate | None, *, signed: bool = False) -> Cell:
        """Return an estimate with its interval in this number's unit."""
        return cell(estimate, partial(self.text, signed=signed))


_TASK: Final = ("held-out",)
_ALL: Final = (*_TASK, *LEAK_PROBES)
NUMBERS: Final = (
    Number("follow", "follow", "share", True, _TASK, "exactly the asked-for format with the token"),
    Number("follow_loose", "follow, loosely", "share", True, _TASK, "anything that can be parsed"),
    Number(
        "leak", "leak", "share", False, LEAK_PROBES, "marks of the format that is not asked for"
    ),
    Number("selectivity", "selectivity", "share", True, _ALL, "follow minus leak"),
    Number("obey", "obey", "share", True, ("forbid",), "no format where the prompt forbids it"),
    Number("kl", "keep: KL", "nats", False, (), "KL(untrained, trained) per token of pairs"),
    Number(
        "similar", "keep: answers", "share", True, ("unrelated",), "answers as they were before"
    ),
    Number(
        "right", "right", "score", True, _TASK, "right labels, or the score; unreadable is wrong"
    ),
    Number(
        "agree", "agreement", "score", True, _TASK, "agreement with the system prompt's answers"
    ),
    Number("saved", "save", "tokens", True, _TASK, "prompt tokens against the full instruction"),
    Number(
        "general", "general", "share", True, ("general",), "general requests that are satisfied"
    ),
)
"""All numbers, in the order in which tables show them."""
BY_NAME: Final = {number.name: number for number in NUMBERS}


@dataclass(frozen=True, slots=True)
class Outcome:
    """The grades of one answer.

    Attributes:
        strict: Whether it is in the format as it is.
        loose: Whether it counts loosely (`AnswerFormat.parses`).
        marks: Its marks of the format, sorted.
        right: 1 if it is right, 0 if not, or the task's score between; None for requests that are
            not of the task, or if the task's scoring is unknown.
        labels: Expected label and label of the answer, by key; None if the answer has none.
    """

    strict: bool
    loose: bool
    marks: tuple[str, ...]
    right: float | None = None
    labels: Mapping[str, tuple[str, str | None]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ScoredRow:
    """One request with its answers and their grades.

    Attributes:
        answered: The request and its answers.
        outcomes: The grades by system.
        saved: Prompt tokens saved against the full instruction; None if unknown.
        similarity: Similarity of the answer to the untrained model's, if it was measured.
        agreement: By system, agreement of its answer with the greedy one to the system prompt that
            the token stands for, 0 to 1; for `INSTRUCTED` that of the row's own answer, which the
            same prompt gave by sampling.
    """

    answered: AnsweredRow
    outcomes: Mapping[str, Outcome]
    saved: int | None = None
    similarity: float | None = None
    agreement: Mapping[str, float] = field(default_factory=dict)

    @property
    def leaks(self) -> bool | None:
        """Whether the answer shows the format and the untrained one does not; None if unknown."""
        ours, theirs = (self.outcomes.get(system) for system in (MODEL, UNTRAINED))
        if ours is None or theirs is None:
            return None
        return is_leak(self.answered.probe, ours.marks, theirs.marks)


def grade_answers(task: EvalTask, rows: Sequence[AnsweredRow]) -> list[ScoredRow]:
    """Grade the answers of rows as the task says.

    Raises:
        InputError: A user's scoring function returns a number outside 0 to 1.
    """
    return [
        ScoredRow(row, {name: _outcome(task, row, text) for name, text in row.answers.items()})
        for row in rows
    ]


def _outcome(task: EvalTask, row: AnsweredRow, text: str) -> Outcome:
    form = task.form
    marks = tuple(sorted(form.marks(text)))
    if not row.expected:
        right = float(satisfies(text, row.constraints)) if row.constraints else None
        return Outcome(False, False, marks, right)
    answer, reference = form.read(text), form.read(row.expected)
    answered = {} if answer is None else answer.labels
    expected = {} if reference is None else reference.labels
    labels = {key: (label, answered.get(key)) for key, label in expected.items()}
    if labels and not callable(task.scoring):
        right = float(all(ours == label for label, ours in labels.values()))
    elif task.scoring is not None and not task.system:
        right = score_answer(task, text, row.expected)
    else:
        right = None
    strict = answer is not None and answer.strict
    return Outcome(strict, form.parses(text), marks, right, labels)


def score_answer(task: EvalTask, answer: str, expected: str) -> float:
    """Score an answer by the task's scoring, from 0 to 1.

    Raises:
        InputError: A user's function returns a number outside 0 to 1.
    """
    match task.scoring:
        case "json":
            return float(parse_answer(answer, task.form.keys) is not None)
        case "exact":
            return exact(answer, expected)
        case "translation":
            return chrf(answer, expected)
    assert callable(task.scoring)
    value = float(task.scoring(answer, expected))
    if not 0 <= value <= 1:
        raise InputError(f"the task's scoring gave {value} for {answer!r}: it must give 0 to 1")
    return value


def is_leak(probe: str, marks: Iterable[str], untrained: Iterable[str]) -> bool:
    """Return whether an answer with these marks leaks, given those of the untrained model's."""
    ignored = JSON_MARKS if probe == "other-json" else frozenset()
    return bool(set(marks) - set(untrained) - ignored)


def obeys(marks: Iterable[str]) -> bool:
    """Return whether an answer with these marks is not in a format that the prompt forbids."""
    return not set(marks) - {CONTENT}


def agreement(form: AnswerFormat, answer: str, other: str) -> float | None:
    """Return how far two answers agree, 0 to 1; None for free text, which embeddings compare.

    Objects agree in the share of keys with equal values, labels if they are equal; case, spaces and
    a final period make no difference. An answer that is not in the format agrees with no other.
    """
    if form.kind not in ("json", "label"):
        return None
    first, second = form.read(answer), form.read(other)
    if first is None or second is None:
        return 0.0
    if form.kind == "label":
        return float(plain_label(answer) == plain_label(other))
    equal = [plain_label(first.value[k]) == plain_label(second.value[k]) for k in form.keys]
    return sum(equal) / len(equal)


def write_scored_rows(path: str | os.PathLike[str], rows: Sequence[ScoredRow]) -> None:
    """Write rows as JSON Lines."""
    with atomic_path(path) as part, part.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(asdict(row), ensure_ascii=False) + "\n")


def read_scored_rows(path: str | os.PathLike[str]) -> list[ScoredRow]:
    """Read the rows that `write_scored_rows` wrote.

    Raises:
        FormatError: A line is something else.
    """
    adapter = TypeAdapter(ScoredRow)
    rows = []
    with Path(path).open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                rows.append(adapter.validate_json(line))
            except ValidationError as error:
                raise FormatError(
                    f"{path}:{number} is not an evaluated row: run delia evaluate again"
                ) from error
    return rows


@dataclass(frozen=True, slots=True)
class LabelCount:
    """How often rows expect a label, answers have it, and both do."""

    label: str
    expected: int
    answered: int
    right: int


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The numbers of one system on one task.

    Attributes:
        task: The task's name.
        token: The special token.
        form: The answer format (`AnswerFormat.as_dict`).
        system: The system: engine, model, prompts, max_tokens, untrained model.
        numbers: By system (`MODEL`, and the bounds `UNTRAINED` and `INSTRUCTED`), each number by
            name. Those that were not measured are absent.
        unknown: The reason for each number that `MODEL` lacks.
        leaks: The leak in each probe.
        rows: Requests by probe.
        cut: Answers of `MODEL` that were cut off, by probe; they are seldom complete.
        unfinished: Answers to unrelated requests that end in mid-sentence without having been cut
            off, by system.
        labels: Counts of each label by key, with the token; the key is `"answer"` if the whole
            answer is the label. An answer that is not in the format has none.
        translation: Corpus scores with the token, by the metric's name.
        general_tasks: Scores on tasks of lm-eval by system, and their standard errors.
        confusion: By token asked, the number of answers in each token's format (`count_formats`);
            empty unless several tasks were asked.
        combined: By two tokens that a request names, as in `"<a> <b>"`, the number of answers in
            the format of each alone, of both and of none (`count_two_formats`).
        how: Settings of the intervals.
        notes: Notes for the reader.
        version: `VERSION`.
    """

    task: str
    token: str
    form: Mapping[str, Any]
    system: Mapping[str, Any]
    numbers: Mapping[str, Mapping[str, Estimate]]
    unknown: Mapping[str, str]
    leaks: Mapping[str, Estimate]
    rows: Mapping[str, int]
    cut: Mapping[str, int]
    unfinished: Mapping[str, int]
    labels: Mapping[str, tuple[LabelCount, ...]] = field(default_factory=dict)
    translation: Mapping[str, Estimate] = field(default_factory=dict)
    general_tasks: Mapping[str, Mapping[str, tuple[float, float | None]]] = field(
        default_factory=dict
    )
    confusion: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    combined: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    how: Resampling = field(default_factory=Resampling)
    notes: tuple[str, ...] = ()
    version: int = VERSION

    def number(self, name: str, system: str = MODEL) -> Estimate | None:
        """Return a number of a system; None if it was not measured.

        Raises:
            InputError: There is no such number.
        """
        if name not in BY_NAME:
            raise InputError(f"number {name!r} is unknown: use one of {', '.join(BY_NAME)}")
        return self.numbers.get(system, {}).get(name)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, where: str = "the evaluation") -> Evaluation:
        """Build an evaluation from the values of `evaluation.json`.

        Raises:
            FormatError: A value is missing or has the wrong type, or an earlier version wrote it.
        """
        if values.get("version") != VERSION:
            raise FormatError(
                f"{where} was written by another version, whose numbers mean something else: run "
                "delia evaluate into its folder again, which keeps the answers"
            )
        return from_json(cls, values, where)


def score(
    rows: Sequence[ScoredRow],
    task: EvalTask,
    *,
    system: Mapping[str, Any] | None = None,
    how: Resampling | None = None,
    metrics: Sequence[CorpusMetric] = (),
    divergences: Sequence[Divergence] = (),
    unknown: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> Evaluation:
    """Compute the numbers of graded rows.

    Args:
        rows: The rows (`grade_answers`).
        task: The task.
        system: Description of the system, for the record.
        how: Settings of the intervals.
        metrics: Corpus scores of translations.
        divergences: Divergence of each held-out pair.
        unknown: Reasons for numbers that could not be measured, by name.
        notes: Notes for the reader.

    Raises:
        InputError: There are no rows.
    """
    if not rows:
        raise InputError("there are no answers to score: generate some first")
    how = how or Resampling()
    by_probe: dict[str, list[ScoredRow]] = {}
    for row in rows:
        by_probe.setdefault(row.answered.probe, []).append(row)
    numbers = {name: _numbers(by_probe, name, how) for name in SYSTEMS}
    if divergences:
        sums = [[one.nats, one.tokens] for one in divergences]
        kl = bootstrap(sums, lambda total: total[:, 0] / total[:, 1], how)
        numbers[MODEL] |= {} if kl is None else {"kl": kl}
    reasons = {**_reasons(by_probe), **(unknown or {})}
    held_out = [row for row in by_probe.get("held-out", ()) if MODEL in row.outcomes]
    unrelated = [row.answered for row in by_probe.get("unrelated", ())]
    return Evaluation(
        task=task.name,
        token=task.token,
        form=task.form.as_dict(),
        system=dict(system or {}),
        numbers={name: one for name, one in numbers.items() if one},
        unknown={n: why for n, why in reasons.items() if n not in numbers[MODEL]},
        leaks={
            probe: _estimate("leak", [{probe: values}], how)
            for probe in LEAK_PROBES
            if (values := _leaks(by_probe.get(probe, ())))
        },
        rows={probe: len(group) for probe, group in by_probe.items()},
        cut={
            probe: sum(MODEL in row.answered.cut for row in group)
            for probe, group in by_probe.items()
        },
        unfinished={
            name: sum(
                name not in row.cut and ends_in_mid_sentence(row.answers[name])
                for row in unrelated
                if name in row.answers
            )
            for name in SYSTEMS
            if any(name in row.answers for row in unrelated)
        },
        labels=_count_labels([row.outcomes[MODEL] for row in held_out], task.form.labels),
        translation=_translation(metrics, [held_out], how),
        how=how,
        notes=tuple(notes),
    )


def _numbers(
    by_probe: Mapping[str, Sequence[ScoredRow]], name: str, how: Resampling
) -> dict[str, Estimate]:
    """Return the numbers of one system, except the divergence."""
    numbers = {}
    for number in NUMBERS:
        if (columns := _columns(by_probe, number.name, name)) is not None:
            numbers[number.name] = _estimate(number.name, [columns], how)
    return numbers


def _columns(
    by_probe: Mapping[str, Sequence[ScoredRow]], number: str, system: str
) -> dict[str, list[float]] | None:
    """Return the values of a number row by row, for each of its probes; None if any is missing."""

    def graded(probe: str, value: Callable[[Outcome], float | None]) -> list[float]:
        group = by_probe.get(probe, ())
        outcomes = [row.outcomes.get(system) for row in group]
        return _complete([None if one is None else value(one) for one in outcomes])

    match number:
        case "follow":
            columns = {"held-out": graded("held-out", lambda one: one.strict)}
        case "follow_loose":
            columns = {"held-out": graded("held-out", lambda one: one.loose)}
        case "right":
            columns = {"held-out": graded("held-out", lambda one: one.right)}
        case "general":
            columns = {"general": graded("general", lambda one: one.right)}
        case "agree":
            group = by_probe.get("held-out", ())
            columns = {"held-out": _complete([row.agreement.get(system) for row in group])}
        case "obey":
            columns = {"forbid": graded("forbid", lambda one: obeys(one.marks))}
        case "leak" if system == MODEL:
            columns = {probe: _leaks(by_probe.get(probe, ())) for probe in LEAK_PROBES}
        case "selectivity" if system == MODEL:
            follow = _columns(by_probe, "follow", system) or {"held-out": []}
            columns = {**follow, **(_columns(by_probe, "leak", system) or {"": []})}
        case "similar" if system == MODEL:
            values = _complete([row.similarity for row in by_probe.get("unrelated", ())])
            columns = {"unrelated": [float(value >= SIMILAR) for value in values]}
        case "saved" if system == MODEL:
            columns = {"held-out": _complete([row.saved for row in by_probe.get("held-out", ())])}
        case _:
            return None
    return columns if all(columns.values()) else None


def _leaks(rows: Sequence[ScoredRow]) -> list[float]:
    """Return whether each answer leaks; empty if it is unknown for any."""
    return _complete([row.leaks for row in rows])


def _complete(values: Sequence[float | None]) -> list[float]:
    """Return values as numbers; empty if any is unknown."""
    numbers = [float(value) for value in values if value is not None]
    return numbers if len(numbers) == len(values) else []


def _estimate(
    number: str, systems: Sequence[Mapping[str, Sequence[float]]], how: Resampling
) -> Estimate:
    """Estimate a number of one system, or its difference of two on the same rows.

    Rows are resampled probe by probe, with the answers of both systems; the rows of the task are
    drawn alike in all probes, so that selectivity is paired, too. If no resample differs, the
    exact bound of a share takes the place of the interval.
    """
    (value, drawn, rows), *others = (_statistic(columns, how) for columns in systems)
    for other, resampled, _ in others:
        value, drawn = value - other, drawn - resampled
    if number != "saved" and not np.ptp(drawn):
        lowest = -1.0 if number == "selectivity" else 0.0
        bounds = (lowest - 1.0, 1.0 - lowest) if others else (lowest, 1.0)
        return bootstrap_mean([value] * rows, how, bounds=bounds)
    estimate = how.estimate(value, drawn, rows)
    assert estimate is not None
    return estimate


def _statistic(
    columns: Mapping[str, Sequence[float]], how: Resampling
) -> tuple[float, Numbers, int]:
    """Return a mean of one system, its values in each resample, and its rows.

    Of several probes it is the largest mean, subtracted from that of the held-out rows if those are
    among them.
    """
    means: dict[str, float] = {}
    drawn: dict[str, Numbers] = {}
    for place, (probe, column) in enumerate(columns.items()):
        table = np.asarray(column, dtype=np.float64)
        seeded = how if probe in ("held-out", "plain") else replace(how, seed=how.seed + place)
        means[probe] = float(table.mean())
        drawn[probe] = np.concatenate(
            [weights @ table / len(table) for weights in seeded.weights(len(table))]
        )
    probes = [probe for probe in columns if probe != "held-out" or len(columns) == 1]
    worst = max(means[probe] for probe in probes)
    rows = max(len(columns[probe]) for probe in probes if means[probe] == worst)
    resampled = np.max([drawn[probe] for probe in probes], axis=0)
    if "held-out" in probes or "held-out" not in columns:
        return worst, resampled, rows
    rows = min(rows, len(columns["held-out"]))
    return means["held-out"] - worst, drawn["held-out"] - resampled, rows


def _reasons(by_probe: Mapping[str, Sequence[ScoredRow]]) -> dict[str, str]:
    """Return why each number that rows give may be missing."""
    rows = [row for group in by_probe.values() for row in group]
    alone = all(UNTRAINED not in row.outcomes for row in rows)
    missing = {
        **dict.fromkeys(("leak", "selectivity", "similar", "kl"), "not measured"),
        "saved": "the engine has no tokenizer here (--tokenizer)",
        "agree": "the token stands for no system prompt",
        "right": "the task's scoring is a function, which its folder does not hold",
    }
    if alone:
        why = "the untrained model's answers are missing (--untrained)"
        missing |= dict.fromkeys(("leak", "selectivity", "similar", "kl"), why)
    reasons = {}
    for number in NUMBERS:
        absent = [probe for probe in number.probes if probe not in by_probe]
        if absent == ["general"]:
            reasons[number.name] = "the general requests were not asked (--general)"
        elif absent:
            reasons[number.name] = f"probe {absent[0]} was not asked"
        elif number.name in missing:
            reasons[number.name] = missing[number.name]
    return reasons


def _count_labels(
    outcomes: Sequence[Outcome], labels_by_key: Mapping[str, Sequence[str]]
) -> dict[str, tuple[LabelCount, ...]]:
    """Count the expected and the answered labels of each key that some row expects."""
    counts = {}
    for key, names in labels_by_key.items():
        pairs = [each.labels[key] for each in outcomes if key in each.labels]
        if pairs:
            labels = sorted({*names, *(expected for expected, _ in pairs)})
            counts[key] = tuple(
                LabelCount(
                    label,
                    expected=sum(e == label for e, _ in pairs),
                    answered=sum(a == label for _, a in pairs),
                    right=sum(e == a == label for e, a in pairs),
                )
                for label in labels
            )
    return counts


def count_formats(
    tasks: Sequence[EvalTask], answers: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, int]]:
    """Count the formats of answers by the token that was asked for.

    An answer counts for the token whose format it is in as it is; if that holds for several, for
    the asked one among them, else for the first.

    Args:
        tasks: The tasks, each with its own token.
        answers: Answers to held-out rows by the token that they name.

    Returns:
        For each token asked, the answers in the format of each token and in none (`NO_FORMAT`).
    """
    table = {}
    for token, texts in answers.items():
        counts = dict.fromkeys((*(task.token for task in tasks), NO_FORMAT), 0)
        for text in texts:
            formats = [task.token for task in tasks if task.form.follows(text)]
            counts[token if token in formats else [*formats, NO_FORMAT][0]] += 1
        table[token] = counts
    return table


def count_two_formats(first: EvalTask, second: EvalTask, answers: Sequence[str]) -> dict[str, int]:
    """Count the formats of answers to requests that name two tokens.

    An answer is in both formats if it is in each as a whole, or consists of two parts, cut at the
    end of a line, one in each format.
    """
    counts = dict.fromkeys((first.token, second.token, BOTH, NO_FORMAT), 0)
    for text in answers:
        whole = [task.token for task in (first, second) if task.form.follows(text)]
        lines = text.strip().splitlines()
        parts = [("\n".join(lines[:n]), "\n".join(lines[n:])) for n in range(1, len(lines))]
        orders = [(text, text), *parts, *((tail, head) for head, tail in parts)]
        both = any(first.form.follows(one) and second.form.follows(other) for one, other in orders)
        counts[BOTH if both else [*whole, NO_FORMAT][0]] += 1
    return counts


def parse_gate(text: str) -> dict[str, float]:
    """Read bounds such as `"follow=0.9,leak=0.02,kl=0.02"`.

    Raises:
        SettingsError: A name is unknown, or a bound is no number.
    """
    bounds = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, bound = part.partition("=")
        if name.strip() not in BY_NAME:
            raise SettingsError(
                f"gate {part!r} names no number: use {', '.join(BY_NAME)}, each with =BOUND"
            )
        try:
            bounds[name.strip()] = float(bound)
            if math.isnan(bounds[name.strip()]):
                raise ValueError
        except ValueError:
            raise SettingsError(
                f"gate {part!r} has no bound: give a number, such as {name.strip()}=0.9"
            ) from None
    if not bounds:
        raise SettingsError("the gate is empty: give bounds such as follow=0.9,leak=0.02")
    return bounds


def missed_bounds(evaluation: Evaluation, bounds: Mapping[str, float]) -> list[str]:
    """Return a line for each bound that a system misses; a number that is unknown misses it.

    Args:
        evaluation: The evaluation.
        bounds: Bounds by number: the least value, or for leak and KL the greatest.
    """
    missed = []
    for name, bound in bounds.items():
        estimate, higher = evaluation.number(name), BY_NAME[name].higher
        if estimate is None:
            missed.append(f"{name} is unknown: {evaluation.unknown.get(name, 'not measured')}")
        elif not (estimate.value >= bound if higher else estimate.value <= bound):
            side = "below" if higher else "above"
            missed.append(f"{name} is {estimate.value:.4g}, {side} {bound:g}")
    return missed


@dataclass(frozen=True, slots=True)
class Comparison:
    """Numbers of the first system minus those of the second, on the rows that both answered.

    Attributes:
        numbers: Differences by number; absent if one of the systems lacks it.
        leaks: Differences of the leak by probe.
        translation: Difference of the corpus scores, by metric.
        rows: Shared rows by probe.
        how: Settings of the intervals.
        notes: Notes for the reader.
    """

    numbers: Mapping[str, Estimate]
    leaks: Mapping[str, Estimate]
    translation: Mapping[str, Estimate]
    rows: Mapping[str, int]
    how: Resampling
    notes: tuple[str, ...] = ()


def compare(
    ours: Sequence[ScoredRow],
    theirs: Sequence[ScoredRow],
    how: Resampling | None = None,
    *,
    metrics: Sequence[CorpusMetric] = (),
    divergences: tuple[Sequence[Divergence], Sequence[Divergence]] = ((), ()),
    notes: Sequence[str] = (),
) -> Comparison:
    """Compare two systems on the rows that both answered.

    A row is resampled together with the answers of both systems, so the intervals of differences
    are paired: differences in difficulty between rows cancel.

    Args:
        ours: Rows of the first system.
        theirs: Rows of the second system, whose numbers are subtracted.
        how: Settings of the intervals.
        metrics: Corpus scores of translations.
        divergences: Divergences of both systems on held-out pairs.
        notes: Notes for the reader.

    Raises:
        InputError: The systems have no rows in common.
    """
    how = how or Resampling()
    second = {(row.answered.probe, row.answered.id): row for row in theirs}
    pairs: dict[str, list[tuple[ScoredRow, ScoredRow]]] = {}
    for row in ours:
        if other := second.get((row.answered.probe, row.answered.id)):
            pairs.setdefault(row.answered.probe, []).append((row, other))
    if not pairs:
        raise InputError(
            f"the systems have no rows in common, of {len(ours)} and {len(theirs)}: evaluate the "
            "same task with the same probes"
        )
    shared = sum(map(len, pairs.values()))
    alone = len(ours) - shared, len(theirs) - shared
    if any(alone):
        notes = (*notes, f"left out {alone[0]} and {alone[1]} rows that only one system answered")
    reworded = sum(
        a.answered.question != b.answered.question for each in pairs.values() for a, b in each
    )
    if reworded:
        notes = (*notes, f"{reworded} of {shared} rows have other wordings")
    sides = [
        {probe: [pair[side] for pair in each] for probe, each in pairs.items()} for side in (0, 1)
    ]
    numbers = {}
    for number in NUMBERS:
        columns = [_columns(side, number.name, MODEL) for side in sides]
        complete = [one for one in columns if one is not None]
        if len(complete) == len(sides):
            numbers[number.name] = _estimate(number.name, complete, how)
    if kl := _kl_difference(*divergences, how):
        numbers["kl"] = kl
    leaks: dict[str, Estimate] = {}
    for probe in LEAK_PROBES:
        mine, its = (_leaks(side.get(probe, ())) for side in sides)
        if mine and its:
            leaks[probe] = _estimate("leak", [{probe: mine}, {probe: its}], how)
    held_out = [
        pair for pair in pairs.get("held-out", ()) if all(MODEL in row.outcomes for row in pair)
    ]
    return Comparison(
        numbers=numbers,
        leaks=leaks,
        translation=_translation(metrics, list(zip(*held_out, strict=True)), how),
        rows={probe: len(each) for probe, each in pairs.items()},
        how=how,
        notes=tuple(notes),
    )


def _kl_difference(
    ours: Sequence[Divergence], theirs: Sequence[Divergence], how: Resampling
) -> Estimate | None:
    second = {one.id: one for one in theirs}
    pairs = [(one, second[one.id]) for one in ours if one.id in second]
    if not pairs:
        return None
    table = [[a.nats, a.tokens, b.nats, b.tokens] for a, b in pairs]
    return bootstrap(table, lambda s: s[:, 0] / s[:, 1] - s[:, 2] / s[:, 3], how)


def _translation(
    metrics: Sequence[CorpusMetric], systems: Sequence[Sequence[ScoredRow]], how: Resampling
) -> dict[str, Estimate]:
    """Return the corpus scores of a system, or the differences of two; empty without rows."""
    answered = [[row.answered for row in rows] for rows in systems if rows]
    texts = [
        ([r.source for r in rows], [r.answers[MODEL] for r in rows], [r.expected for r in rows])
        for rows in answered
    ]
    return {metric.name: score_corpus(metric, texts, how) for metric in metrics if texts}
