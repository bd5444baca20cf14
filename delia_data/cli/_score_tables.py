"""Tables of an evaluation and of a comparison."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from delia_data.cli._output import print_table, say
from delia_data.evaluation.bootstrap import Estimate
from delia_data.evaluation.generation import SYSTEMS
from delia_data.evaluation.scores import NUMBERS, Comparison, Evaluation


def signed(estimate: Estimate) -> str:
    """Format a difference with its sign and its interval."""
    return f"{estimate.value:+.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def percent(estimate: Estimate) -> str:
    """Format a share in percent with its interval."""
    return f"{estimate.value:.0%} [{100 * estimate.low:.0f}, {100 * estimate.high:.0f}]"


def interval(estimate: Estimate | None, digits: int = 2) -> str:
    """Format a number with its interval; a number that rounds to 0 has no sign."""
    if estimate is None:
        return "undefined"
    value, low, high = (
        f"{round(number, digits) + 0.0:.{digits}f}"
        for number in (estimate.value, estimate.low, estimate.high)
    )
    return f"{value} [{low}, {high}]"


def _score(estimate: Estimate | None) -> str:
    """Format a score from 0 to 1 in two places, or from 0 to 100 in one."""
    return interval(estimate, 1 if estimate is not None and estimate.value > 1 else 2)


def print_evaluation(evaluation: Evaluation) -> None:
    """Print the numbers with both bounds, the leak by probe, counts of labels, and notes."""
    confidence = 100 * evaluation.how.confidence
    say(f"{evaluation.task}: {confidence:g}% intervals by bootstrap over rows")
    print_numbers(evaluation)
    if evaluation.leaks:
        rows = [[name, percent(one), str(one.rows)] for name, one in evaluation.leaks.items()]
        print_table(("leak by probe", "share", "rows"), rows)
    if evaluation.confusion:
        print_table(*evaluation.confusion_table())
    if evaluation.labels:
        rows = [
            [f"{key}: {one.label}", str(one.expected), str(one.answered), str(one.right)]
            for key, counts in evaluation.labels.items()
            for one in counts
        ]
        print_table(("label", "expected", "answered", "right"), rows)
    if evaluation.translation:
        scores = [[name, _score(one)] for name, one in evaluation.translation.items()]
        print_table(("translation", "score"), scores)
    if general := evaluation.general_tasks:
        names = dict.fromkeys(name for scores in general.values() for name in scores)
        rows = [
            [name, *(_with_error(scores.get(name)) for scores in general.values())]
            for name in names
        ]
        print_table(("lm-eval", *(SYSTEMS[system] for system in general)), rows)
    _print_notes(_notes(evaluation))


def print_numbers(evaluation: Evaluation) -> None:
    """Print the numbers of the model, and of the untrained model without and with instruction."""
    systems = [system for system in SYSTEMS if system in evaluation.numbers]
    rows = []
    for number in NUMBERS:
        estimates = [evaluation.number(number.name, system) for system in systems]
        if any(estimates) or number.name != "general":
            rows.append([number.title, *(number.text_of(one) for one in estimates)])
    print_table(("number", *(SYSTEMS[system] for system in systems)), rows)


def print_comparison(comparison: Comparison, ours: str, theirs: str) -> None:
    """Print the differences, then notes."""
    confidence = 100 * comparison.how.confidence
    say(
        f"{ours} minus {theirs}: paired {confidence:g}% intervals by bootstrap over rows; shares "
        "in percentage points"
    )
    rows = [
        [number.title, number.text_of(estimate, signed=True)]
        for number in NUMBERS
        if (estimate := comparison.numbers.get(number.name))
    ]
    leak = next(number for number in NUMBERS if number.name == "leak")
    rows += [
        [f"  leak, {probe}", leak.text_of(estimate, signed=True)]
        for probe, estimate in comparison.leaks.items()
    ]
    rows += [[name, signed(one)] for name, one in comparison.translation.items()]
    print_table(("number", "difference"), rows)
    _print_notes(comparison.notes)


def _with_error(score: tuple[float, float | None] | None) -> str:
    if score is None:
        return "–"
    value, error = score
    return f"{value:.3f}" if error is None else f"{value:.3f} ± {error:.3f}"


def _notes(evaluation: Evaluation) -> Iterator[str]:
    yield from evaluation.notes
    yield from (f"{name} is unknown: {why}" for name, why in _grouped(evaluation.unknown))
    if any(evaluation.unfinished.values()):
        counts = ", ".join(
            f"{count} ({SYSTEMS[system]})" for system, count in evaluation.unfinished.items()
        )
        yield (
            f"of {evaluation.rows['unrelated']} unrelated answers, so many end in mid-sentence "
            f"without having been cut off: {counts}"
        )
    if cut := evaluation.cut.get("held-out"):
        yield (
            f"{cut} of {evaluation.rows['held-out']} answers with {evaluation.token} were cut off "
            "and are therefore seldom complete: a higher --max-tokens may change follow"
        )


def _grouped(unknown: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the names of numbers that are unknown for the same reason together."""
    titles = {number.name: number.title for number in NUMBERS}
    asked = {name: why for name, why in unknown.items() if name != "general"}
    for why in dict.fromkeys(asked.values()):
        yield " and ".join(titles[name] for name, reason in asked.items() if reason == why), why


def _print_notes(notes: Iterable[str]) -> None:
    for note in dict.fromkeys(notes):
        say(f"note: {note}")
