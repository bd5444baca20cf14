"""Measure the rejections and the CPU time of filters, and the measures of coverage and novelty.

    python -m benchmarks.filters rejects FILE...      # by reason, with examples; any row format
    python -m benchmarks.filters cost                 # a million random rows of 90 words
    python -m benchmarks.filters cost --rows 100000
    python -m benchmarks.filters coverage FILE --topic "recipe|cook|dish|ingredients|meal|dinner"

Times are CPU times, which depend little on other processes of the machine.
"""

from __future__ import annotations

import argparse
import random
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from delia_data.engines.base import Completion
from delia_data.errors import FormatError
from delia_data.reading import open_source
from delia_data.records import Record, read_record
from delia_data.sampling.embeddings import Embedder, Saturation, Vectors, coverage
from delia_data.sampling.filters import Filter, default_filters
from delia_data.sampling.sampler import ProgressMeter
from delia_data.sampling.store import Counts, SampledRow

__all__ = ["main"]

_BLOCKS: Final = 20_000
_STEPS: Final = 5


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the selected command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    rejects_parser = commands.add_parser("rejects")
    rejects_parser.add_argument("files", nargs="+")
    rejects_parser.add_argument("--language")
    rejects_parser.add_argument(
        "--examples", type=int, default=0, help="number of examples per reason (0)"
    )
    rejects_parser.set_defaults(run=lambda a: rejects(a.files, a.language, a.examples))
    cost_parser = commands.add_parser("cost")
    cost_parser.add_argument("--rows", type=int, default=1_000_000)
    cost_parser.set_defaults(run=lambda a: cost(a.rows))
    coverage_parser = commands.add_parser("coverage")
    coverage_parser.add_argument("file")
    coverage_parser.add_argument("--rows", type=int, default=6000)
    coverage_parser.add_argument("--topic", default="recipe|cook|dish|ingredients|meal|dinner")
    coverage_parser.set_defaults(run=lambda a: measure_coverage(a.file, a.rows, a.topic))
    given = parser.parse_args(arguments)
    given.run(given)


def rejects(files: Sequence[str], language: str | None, examples: int) -> None:
    """Print the number of pairs in each file that each filter rejects, and its CPU time per row."""
    for file in files:
        checks = default_filters(language=language)
        rejected: dict[str, list[tuple[str, str]]] = defaultdict(list)
        seconds: dict[str, float] = defaultdict(float)
        rows = 0
        for _, row in open_source(file).rows():
            rows += 1
            try:
                record = read_record(row)
            except FormatError:
                rejected["no record"].append((str(row)[:100], ""))
                continue
            reason = _first_reason(checks, record.query, record.answer, seconds)
            if reason is not None:
                rejected[reason].append((record.query, record.answer))
        print(f"{file}: {rows} pairs")
        for reason, pairs in sorted(rejected.items()):
            print(f"  {reason:16} {len(pairs):6}  {len(pairs) / rows:.3%}")
            for query, answer in random.Random(0).sample(pairs, min(examples, len(pairs))):
                print(f"    {query[-100:]!r} -> {answer[:100]!r} ... {answer[-40:]!r}")
        for name, total in sorted(seconds.items(), key=lambda item: -item[1]):
            print(f"  {name:16} {total / rows * 1e6:6.1f} us per row")


def cost(rows: int) -> None:
    """Print the CPU time per row of the filters and the meter, and their memory."""
    checks, counts = default_filters(), Counts()
    meter = ProgressMeter(counts)
    seconds: dict[str, float] = defaultdict(float)
    reasons: Counter[str | None] = Counter()
    before = _resident_mib()
    for number, answer in enumerate(_random_answers(rows), start=1):
        reason = _first_reason(checks, f"Query {number}", answer, seconds)
        reasons[reason] += 1
        began = time.process_time()
        row = SampledRow(number, "id", "q", answer, 120, rejected=reason)
        counts.add(row)
        meter.add(row)
        seconds["meter"] += time.process_time() - began
        if number % (rows // _STEPS) == 0:
            costs = ", ".join(
                f"{name} {total / number * 1e6:.1f}"
                for name, total in sorted(seconds.items(), key=lambda item: -item[1])
            )
            print(f"{number} rows: {_resident_mib() - before:.0f} MiB more; us per row: {costs}")
    print("wrongly rejected:", dict(reasons - Counter({None: reasons[None]})))
    began = time.process_time()
    meter.now(fresh=True)
    print(f"distinct shares of the last 1,000 rows: {time.process_time() - began:.3f} s")


def measure_coverage(file: str, rows: int, topic: str) -> None:
    """Print coverage and novelty by number of answers, for all topics and for one topic."""
    pairs = [(record.query, record.answer) for record in _records(file)]
    random.Random(0).shuffle(pairs)
    about = re.compile(rf"\b(?:{topic})\b", re.IGNORECASE)
    embed = Embedder()
    mixed = embed([answer for _, answer in pairs[:rows]])
    topical = embed([answer for query, answer in pairs if about.search(query)][: rows // 8])
    reference, sample = mixed[: rows // 2], mixed[rows // 2 :]
    for name, vectors in (("all topics", sample), ("one topic", topical)):
        sizes = [size for size in (100, 200, 400, 700, 1000, 2000, 3000) if size <= len(vectors)]
        shares = {size: round(coverage(reference, vectors[:size]), 3) for size in sizes}
        print(f"coverage of {len(reference)} answers by number of answers, {name}: {shares}")
    repeated = mixed[[index % 200 for index in range(1000)]]
    for name, vectors in (
        ("all topics", mixed),
        ("one topic", topical),
        ("200 answers repeated", repeated),
    ):
        by_key = {str(index): vector for index, vector in enumerate(vectors)}
        measure = Saturation(partial(_look_up, by_key), share=1.0, most_time=None)
        novelty = {}
        for number, key in enumerate(by_key, start=1):
            measure.add([key])
            if number in (250, 500, 750, 1000, 2000, 4000, 6000):
                novelty[number] = (round(measure.novelty or 0.0, 3), measure.saturated)
        print(f"(novelty, saturated) by number of answers, {name}: {novelty}")


def _look_up(vectors: Mapping[str, Vectors], texts: Sequence[str]) -> Vectors:
    return np.stack([vectors[text] for text in texts])


def _records(file: str) -> Iterator[Record]:
    """Yield the rows that are records; some rows of Alpaca have no answer."""
    for _, row in open_source(file).rows():
        with suppress(FormatError):
            yield read_record(row)


def _first_reason(
    checks: Sequence[Filter], query: str, answer: str, seconds: dict[str, float]
) -> str | None:
    """Return the reason of the first filter that rejects a pair, and add up the CPU times."""
    completion = Completion("id", answer, 0, "stop")
    for check in checks:
        began = time.process_time()
        reason = check(query, completion)
        name = getattr(check, "__name__", type(check).__name__)
        seconds[name] += time.process_time() - began
        if reason is not None:
            return reason
    return None


def _random_answers(rows: int) -> Iterator[str]:
    """Yield answers of 90 words, each of nine random blocks of ten words."""
    ends = ("n", "st", "ring", "ter", "le")
    words = [f"{a}{b}{c}" for a in "bcdfgklmnp" for b in "aeiou" for c in ends]
    blocks = [" ".join(random.Random(i).choices(words, k=10)) for i in range(_BLOCKS)]
    draw = random.Random(_BLOCKS)
    return (" ".join(draw.choices(blocks, k=9)) for _ in range(rows))


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096 / 2**20


if __name__ == "__main__":
    main()
