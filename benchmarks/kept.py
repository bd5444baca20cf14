"""What the filters reject, what they and the meter cost, and what the measures of coverage tell.

    python -m benchmarks.kept rejects FILE...      # by reason, with examples; any row format
    python -m benchmarks.kept cost                 # a million made-up rows of 90 words
    python -m benchmarks.kept cost --rows 100000
    python -m benchmarks.kept coverage FILE --topic "recipe|cook|dish|ingredients|meal|dinner"

Times are of the processor, so that what else runs on the machine hardly counts.
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
    """Run what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    rejects_parser = commands.add_parser("rejects")
    rejects_parser.add_argument("files", nargs="+")
    rejects_parser.add_argument("--language")
    rejects_parser.add_argument("--examples", type=int, default=0, help="of each reason")
    rejects_parser.set_defaults(run=lambda a: rejects(a.files, a.language, a.examples))
    cost_parser = commands.add_parser("cost")
    cost_parser.add_argument("--rows", type=int, default=1_000_000)
    cost_parser.set_defaults(run=lambda a: cost(a.rows))
    coverage_parser = commands.add_parser("coverage")
    coverage_parser.add_argument("file")
    coverage_parser.add_argument("--rows", type=int, default=6000)
    coverage_parser.add_argument("--topic", default="recipe|cook|dish|ingredients|meal|dinner")
    coverage_parser.set_defaults(run=lambda a: covers(a.file, a.rows, a.topic))
    chosen = parser.parse_args(arguments)
    chosen.run(chosen)


def rejects(files: Sequence[str], language: str | None, examples: int) -> None:
    """Print how many pairs of each file every filter rejects, and what a row costs it."""
    for file in files:
        checks = default_filters(language=language)
        found: dict[str, list[tuple[str, str]]] = defaultdict(list)
        spent: dict[str, float] = defaultdict(float)
        rows = 0
        for _, row in open_source(file).rows():
            rows += 1
            try:
                record = read_record(row)
            except FormatError:
                found["no record"].append((str(row)[:100], ""))
                continue
            reason = _first(checks, record.query, record.answer, spent)
            if reason is not None:
                found[reason].append((record.query, record.answer))
        print(f"{file}: {rows} pairs")
        for reason, pairs in sorted(found.items()):
            print(f"  {reason:16} {len(pairs):6}  {len(pairs) / rows:.3%}")
            for query, answer in random.Random(0).sample(pairs, min(examples, len(pairs))):
                print(f"    {query[-100:]!r} -> {answer[:100]!r} ... {answer[-40:]!r}")
        for name, seconds in sorted(spent.items(), key=lambda item: -item[1]):
            print(f"  {name:16} {seconds / rows * 1e6:6.1f} us a row")


def cost(rows: int) -> None:
    """Print what a row costs the filters and the meter, and the memory that they hold."""
    checks, counts = default_filters(), Counts()
    meter = ProgressMeter(counts)
    spent: dict[str, float] = defaultdict(float)
    reasons: Counter[str | None] = Counter()
    before = _resident_mib()
    for number, answer in enumerate(_made_up(rows), start=1):
        reason = _first(checks, f"Query {number}", answer, spent)
        reasons[reason] += 1
        begun = time.process_time()
        row = SampledRow(number, "id", "q", answer, 120, rejected=reason)
        counts.add(row)
        meter.add(row)
        spent["meter"] += time.process_time() - begun
        if number % (rows // _STEPS) == 0:
            each = ", ".join(
                f"{n} {s / number * 1e6:.1f}"
                for n, s in sorted(spent.items(), key=lambda item: -item[1])
            )
            print(f"{number} rows: {_resident_mib() - before:.0f} MiB more; us a row: {each}")
    print("rejected, none of them rightly:", dict(reasons - Counter({None: reasons[None]})))
    begun = time.process_time()
    meter.now(fresh=True)
    print(f"distinct shares of the latest 1,000: {time.process_time() - begun:.3f} s")


def covers(file: str, rows: int, topic: str) -> None:
    """Print how coverage grows and novelty falls, over answers to anything and about one topic."""
    pairs = [(record.query, record.answer) for record in _records(file)]
    random.Random(0).shuffle(pairs)
    about = re.compile(rf"\b(?:{topic})\b", re.IGNORECASE)
    embed = Embedder()
    mixed = embed([answer for _, answer in pairs[:rows]])
    narrow = embed([answer for query, answer in pairs if about.search(query)][: rows // 8])
    reference, sample = mixed[: rows // 2], mixed[rows // 2 :]
    for name, vectors in (("anything", sample), ("one topic", narrow)):
        sizes = [size for size in (100, 200, 400, 700, 1000, 2000, 3000) if size <= len(vectors)]
        shares = {size: round(coverage(reference, vectors[:size]), 3) for size in sizes}
        print(f"coverage of {len(reference)} answers, by so many about {name}: {shares}")
    again = mixed[[place % 200 for place in range(1000)]]
    for name, vectors in (("anything", mixed), ("one topic", narrow), ("200 again", again)):
        places = {str(place): vector for place, vector in enumerate(vectors)}
        embed_known = partial(_known, places)
        measure = Saturation(embed_known, share=1.0, most_time=None)
        novelty = {}
        for number, key in enumerate(places, start=1):
            measure.add([key])
            if number in (250, 500, 750, 1000, 2000, 4000, 6000):
                novelty[number] = (round(measure.novelty or 0.0, 3), measure.saturated)
        print(f"novelty, and whether saturated, {name}: {novelty}")


def _known(vectors: Mapping[str, Vectors], texts: Sequence[str]) -> Vectors:
    return np.stack([vectors[text] for text in texts])


def _records(file: str) -> Iterator[Record]:
    """The rows that are records; some of Alpaca's have no answer."""
    for _, row in open_source(file).rows():
        with suppress(FormatError):
            yield read_record(row)


def _first(
    checks: Sequence[Filter], query: str, answer: str, spent: dict[str, float]
) -> str | None:
    completion = Completion("id", answer, 0, "stop")
    for check in checks:
        begun = time.process_time()
        reason = check(query, completion)
        name = getattr(check, "__name__", type(check).__name__)
        spent[name] += time.process_time() - begun
        if reason is not None:
            return reason
    return None


def _made_up(rows: int) -> Iterator[str]:
    """Answers of 90 words, no two alike: nine blocks of ten words each."""
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
