"""Copy a finished cache into the package, with its quality measurements and a card.

    python -m benchmarks.bundled_cache CACHE --compare ALPACA_CACHE

`CACHE` is an output folder of `delia sample`. `ALPACA_CACHE` has answers of the same model with the
same settings to queries of Alpaca (any `--queries FILE`). Pairs that contain a secret or an e-mail
address become rejected rows. If a requirement is missed, the script prints it and exits with 1.

The card, `cache.md` in the parent folder, has the commands that made the cache.
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
_REASON: Final = "secret"


def pack(cache: Path, compare: Path | None, out: Path, *, about: str) -> Quality:
    """Copy a cache without secrets and with higher compression, measure it, and write a card.

    Args:
        cache: A finished cache folder.
        compare: Cache to measure the coverage against.
        out: Output folder; an existing one is replaced.
        about: Commands that made the cache, for the card.

    Returns:
        Quality of the copy, which is in its manifest too.
    """
    manifest = read_manifest(cache, verify=True)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for file in sorted(cache.glob("pairs-*.parquet")):
        rejected_file = file.with_name(file.name.replace("pairs", "rejected"))
        pairs, rejected = pq.read_table(file), pq.read_table(rejected_file)
        clean, secret = _split(pairs)
        rejected = pa.concat_tables([_without_texts(rejected), _as_rejected(secret, rejected)])
        for table, name in ((clean, file.name), (rejected, rejected_file.name)):
            pq.write_table(table, out / name, compression="zstd", compression_level=19)
    for path in (cache / "plan.json", *sorted(cache.glob("queries/[!.]*"))):
        target = out / path.relative_to(cache)
        target.parent.mkdir(exist_ok=True)
        if path.suffix == ".jsonl":
            target.write_text("".join(_clean_lines(path)), encoding="utf-8")
        else:
            shutil.copyfile(path, target)
    finish(out, _count_rows(manifest, out, {}))
    quality = measure_quality(out, embed=Embedder(), compare=compare, language="en", scan=kinds)
    write_text(out.with_suffix(".md"), _card(manifest, quality, about))
    finish(out, _count_rows(manifest, out, {"quality": asdict(quality)}))
    return quality


def missed(quality: Quality, size: int) -> list[str]:
    """Return the requirements of the bundled cache that this one misses."""
    cut_off = quality.rejected.get("truncated", 0) / (
        quality.pairs + sum(quality.rejected.values())
    )
    covered = (quality.coverage or 0.0) / (quality.rival_coverage or 1.0)
    checks = {
        f"{quality.pairs:,} pairs, at least 27,000": quality.pairs >= 27_000,
        f"{cut_off:.1%} of the answers truncated, at most 5%": cut_off <= 0.05,
        f"{quality.near_duplicate_share:.1%} near duplicates, at most 2%": (
            quality.near_duplicate_share <= 0.02
        ),
        f"{covered:.2f} of the coverage of the compared cache, at least 0.8": covered >= 0.8,
        f"{quality.language_share or 0:.1%} English, at least 98%": (
            (quality.language_share or 0) >= 0.98
        ),
        f"secrets and addresses: {dict(quality.found or {})}, at most none": not quality.found,
        f"{size / _MIB:.1f} MiB, at most 12 MB": size <= 12e6,
    }
    return [text for text, reached in checks.items() if not reached]


def _split(pairs: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Split pairs into those without and those with a secret or an address."""
    clean = [
        not any(any(kinds(message["content"])) for message in messages)
        for messages in pairs["messages"].to_pylist()
    ]
    mask = pa.array(clean)
    return pairs.filter(mask), pairs.filter(pa.compute.invert(mask))


def _clean_lines(path: Path) -> Iterator[str]:
    """Yield lines of generated queries; a text with a secret or an address becomes empty."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            yield json.dumps({**row, "text": ""}) + "\n" if any(kinds(row["text"])) else line


def _without_texts(rejected: pa.Table) -> pa.Table:
    """Remove the texts of rejected rows, which are of no use."""
    for name in ("query", "answer"):
        column = rejected.schema.get_field_index(name)
        rejected = rejected.set_column(
            column, rejected.schema.field(column), pa.nulls(len(rejected), pa.string())
        )
    return rejected


def _as_rejected(pairs: pa.Table, like: pa.Table) -> pa.Table:
    """Return pairs as rejected rows in the schema of `like`."""
    rows: list[dict[str, Any]] = [
        {
            "reason": _REASON,
            **{name: row.get(name) for name in like.schema.names if name != "reason"},
        }
        for row in pairs.drop_columns(["messages", "source_id"]).to_pylist()
    ]
    return pa.Table.from_pylist(rows, schema=like.schema)


def _count_rows(manifest: Manifest, out: Path, details: dict[str, Any]) -> Manifest:
    """Return the manifest with the counts of the rows in the folder."""
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
        ("rows kept", f"{quality.accepted_share or 1:.1%}"),
        ("answers that reach the token limit", f"{quality.cut_off_share or 0:.2%}"),
        ("near duplicates (Jaccard similarity 0.9)", f"{quality.near_duplicate_share:.2%}"),
        ("pairs similar to an earlier pair (cosine 0.9)", f"{quality.similar_share or 0:.2%}"),
        ("distinct-2", f"{quality.distinct_2 or 0:.3f}"),
        ("words per answer", f"{quality.mean_words:.1f}"),
        ("answers not detected as another language", f"{quality.language_share or 0:.2%}"),
    ]
    if quality.coverage is not None:
        own, rival = quality.coverage, quality.rival_coverage or 0.0
        rows.append(("coverage of answers to Alpaca queries", f"{own:.3f}"))
        rows.append(("coverage of the same by as many answers to Alpaca queries", f"{rival:.3f}"))
    rows += [(f"rejected: {reason}", f"{n:,}") for reason, n in quality.rejected.items()]
    lines = [
        "# Bundled cache",
        "",
        f"Pairs generated by `{model['name']}`, HuggingFaceTB/SmolLM2-135M-Instruct (Apache-2.0),",
        "with the settings in `cache/plan.json`. The queries come from this project, and some from",
        "the model. A model of 135M parameters is often wrong: mix the pairs with the rows of a",
        "task, and do not use them as facts.",
        "",
        "| | |",
        "| --- | ---: |",
        *(f"| {name} | {value} |" for name, value in rows),
        "",
        "Commands that made the cache:",
        "",
        "```",
        about.strip(),
        "```",
        "",
    ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Copy the cache of the command line, and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("cache", type=Path)
    parser.add_argument("--compare", type=Path, help="cache to measure the coverage against")
    parser.add_argument("--about", type=Path, help="file with the commands that made the cache")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args(arguments)
    about = given.about.read_text() if given.about else f"delia sample {given.cache.name} ..."
    quality = pack(given.cache, given.compare, given.out, about=about)
    size = sum(path.stat().st_size for path in given.out.rglob("*") if path.is_file())
    problems = missed(quality, size)
    print(f"{quality.pairs:,} pairs, {size / _MIB:.1f} MiB, in {given.out.name}")
    for problem in problems:
        print(f"requirement missed: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
