"""Put a finished cache into the package, with the figures of its quality and a card.

    python -m benchmarks.bundled_cache CACHE --compare ALPACA_CACHE

`CACHE` is a folder of `delia sample`; `ALPACA_CACHE` has the same model's answers, asked for in the
same way, to queries of Alpaca (any `--queries FILE`). Pairs that hold a secret or an e-mail address
go among the rejected ones. What was not reached is printed, and the exit code is 1.

The card, `cache.md` beside the folder, has the commands that made it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from delia_data.hub.secrets import kinds
from delia_data.outputs import Manifest, finish, read_manifest, write_text
from delia_data.sampling.embeddings import Embedder
from delia_data.sampling.quality import Quality, measure_quality

__all__ = ["main", "missed", "pack"]

OUT: Final = Path(__file__).parents[1] / "delia_data" / "sampling" / "data" / "cache"
_MIB: Final = 2**20
_FOUND: Final = "secret"


def pack(cache: Path, compare: Path | None, out: Path, *, about: str) -> Quality:
    """Copy a cache, smaller, without secrets, measured, and with a card.

    Args:
        cache: A finished cache folder.
        compare: A cache whose answers it should cover as well as they do.
        out: Folder to make; what is there is replaced.
        about: The commands that made the cache, for the card.

    Returns:
        The figures of what was packed, which are in the manifest too.
    """
    manifest = read_manifest(cache, verify=True)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for file in sorted(cache.glob("pairs-*.parquet")):
        rejected_file = file.with_name(file.name.replace("pairs", "rejected"))
        pairs, rejected = pq.read_table(file), pq.read_table(rejected_file)
        clean, found = _parted(pairs)
        rejected = pa.concat_tables([_without_texts(rejected), _as_rejected(found, rejected)])
        for table, name in ((clean, file.name), (rejected, rejected_file.name)):
            pq.write_table(table, out / name, compression="zstd", compression_level=19)
    for path in (cache / "plan.json", *sorted(cache.glob("queries/[!.]*"))):
        target = out / path.relative_to(cache)
        target.parent.mkdir(exist_ok=True)
        if path.suffix == ".jsonl":
            target.write_text("".join(_clean_lines(path)), encoding="utf-8")
        else:
            shutil.copyfile(path, target)
    finish(out, _counted(manifest, out, {}))
    quality = measure_quality(out, embed=Embedder(), compare=compare, language="en", scan=kinds)
    write_text(out.with_suffix(".md"), _card(manifest, quality, about))
    finish(out, _counted(manifest, out, {"quality": asdict(quality)}))
    return quality


def missed(quality: Quality, size: int) -> list[str]:
    """What a cache that comes with the package should reach, and this one does not."""
    cut_off = quality.rejected.get("truncated", 0) / (
        quality.pairs + sum(quality.rejected.values())
    )
    covered = (quality.coverage or 0.0) / (quality.rival_coverage or 1.0)
    checks = {
        f"{quality.pairs:,} pairs, of 27,000": quality.pairs >= 27_000,
        f"{cut_off:.1%} of the answers were cut off, at most 5%": cut_off <= 0.05,
        f"{quality.near_duplicate_share:.1%} near duplicates, at most 2%": (
            quality.near_duplicate_share <= 0.02
        ),
        f"covers {covered:.2f} of what a rival covers, at least 0.8": covered >= 0.8,
        f"{quality.language_share or 0:.1%} English, at least 98%": (
            (quality.language_share or 0) >= 0.98
        ),
        f"secrets and addresses: {dict(quality.found or {})}": not quality.found,
        f"{size / _MIB:.1f} MiB, at most 12 MB": size <= 12e6,
    }
    return [words for words, reached in checks.items() if not reached]


def _parted(pairs: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Pairs without anything found in them, and the others."""
    clean = [
        not any(any(kinds(message["content"])) for message in messages)
        for messages in pairs["messages"].to_pylist()
    ]
    mask = pa.array(clean)
    return pairs.filter(mask), pairs.filter(pa.compute.invert(mask))


def _clean_lines(written: Path) -> Iterator[str]:
    """Lines of what a model wrote as queries; a text in which something is found is emptied."""
    with written.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            yield json.dumps({**row, "text": ""}) + "\n" if any(kinds(row["text"])) else line


def _without_texts(rejected: pa.Table) -> pa.Table:
    """Reasons and counts alone; what failed a filter is no good to anybody."""
    for name in ("query", "answer"):
        place = rejected.schema.get_field_index(name)
        rejected = rejected.set_column(
            place, rejected.schema.field(place), pa.nulls(len(rejected), pa.string())
        )
    return rejected


def _as_rejected(found: pa.Table, like: pa.Table) -> pa.Table:
    rows: list[dict[str, Any]] = [
        {
            "reason": _FOUND,
            **{name: row.get(name) for name in like.schema.names if name != "reason"},
        }
        for row in found.drop_columns(["messages", "source_id"]).to_pylist()
    ]
    return pa.Table.from_pylist(rows, schema=like.schema)


def _counted(manifest: Manifest, out: Path, details: dict[str, Any]) -> Manifest:
    """The manifest of what lies in the folder now."""
    kept = sum(pq.read_metadata(file).num_rows for file in out.glob("pairs-*.parquet"))
    dropped: Counter[str] = Counter()
    for file in out.glob("rejected-*.parquet"):
        dropped.update(pq.read_table(file, columns=["reason"])["reason"].to_pylist())
    return manifest.model_copy(
        update={
            "rows": {"asked": kept + sum(dropped.values()), "kept": kept},
            "dropped": dict(sorted(dropped.items())),
            "details": {**manifest.details, **details},
        }
    )


def _card(manifest: Manifest, quality: Quality, about: str) -> str:
    model = manifest.settings["model"]
    rows = [
        ("pairs", f"{quality.pairs:,}"),
        ("kept, of the rows asked", f"{quality.accepted_share or 1:.1%}"),
        ("answers as long as the limit of tokens", f"{quality.cut_off_share or 0:.2%}"),
        ("near duplicates at a Jaccard similarity of 0.9", f"{quality.near_duplicate_share:.2%}"),
        ("pairs near an earlier one in meaning (cosine 0.9)", f"{quality.similar_share or 0:.2%}"),
        ("distinct-2", f"{quality.distinct_2 or 0:.3f}"),
        ("words an answer", f"{quality.mean_words:.1f}"),
        (
            "answers not surely in another language than English",
            f"{quality.language_share or 0:.2%}",
        ),
    ]
    if quality.coverage is not None:
        own, rival = quality.coverage, quality.rival_coverage or 0.0
        rows.append(("coverage of answers to Alpaca's queries", f"{own:.3f}"))
        rows.append(("the same by as many answers to Alpaca's queries", f"{rival:.3f}"))
    rows += [(f"rejected: {reason}", f"{n:,}") for reason, n in quality.rejected.items()]
    lines = [
        "# The cache that comes with delia_data",
        "",
        f"Pairs that `{model['name']}` wrote, HuggingFaceTB/SmolLM2-135M-Instruct (Apache-2.0),",
        "with the settings of `cache/plan.json`. The queries are this project's own, and where",
        "there were too few of them the model's. A model of 135M parameters is often wrong: the",
        "pairs are there to be mixed with a task's rows, and not to be learnt from.",
        "",
        "| | |",
        "| --- | ---: |",
        *(f"| {words} | {figure} |" for words, figure in rows),
        "",
        "Made by",
        "",
        "```",
        about.strip(),
        "```",
        "",
    ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("cache", type=Path)
    parser.add_argument("--compare", type=Path, help="cache of answers to cover")
    parser.add_argument("--about", type=Path, help="file with the commands that made the cache")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args(arguments)
    about = given.about.read_text() if given.about else f"delia sample {given.cache.name} ..."
    quality = pack(given.cache, given.compare, given.out, about=about)
    size = sum(path.stat().st_size for path in given.out.rglob("*") if path.is_file())
    failed = missed(quality, size)
    print(f"{quality.pairs:,} pairs, {size / _MIB:.1f} MiB, in {given.out.name}")
    for words in failed:
        print(f"not reached: {words}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
