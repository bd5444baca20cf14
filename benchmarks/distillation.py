"""Distill three system prompts into tokens, and compare ways of training them.

    python -m benchmarks.distillation --model MODEL --work .bench/distillation
    python -m benchmarks.distillation --model MODEL --work W --ways kl --seeds 0   # a part of it

Messages of residents to a city office go to three prompts of about 270 tokens, which ask for a JSON
record, a reply whose rules are checked by code, and one of ten labels (`benchmarks/distillation/`).
Each way of training is one run of `delia_data.distill` per seed with all three tokens. The model
answers the prompts once per seed. A stopped run resumes.

    kl      the loss is KL from the model with the prompt
    ce      cross-entropy of its sampled answers
    row     KL, training only the rows of the tokens (prompt tuning)

The table goes into RESULTS.md when every way and seed is finished.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import yaml

from benchmarks._report import RESULTS, now, replace_section, table
from delia_data.distill import DistilledToken, DistillResult, DistillSettings, distill
from delia_data.evaluation.generation import INSTRUCTED
from delia_data.evaluation.scores import BY_NAME
from delia_data.evaluation.tables import capital
from delia_data.ranking import rank
from delia_data.training import read_recipe

__all__ = ["main", "messages"]

_DATA: Final = Path(__file__).with_name("distillation")
_TOKENS: Final = {"<extract>": "extract.txt", "<reply>": "reply.txt", "<sort>": "sort.txt"}
_WAYS: Final[dict[str, dict[str, Any]]] = {
    "kl": {"pairs_loss": "kl"},
    "ce": {"pairs_loss": "ce"},
    "row": {"pairs_loss": "kl", "learning_rate": 1e-12},
}
_COLUMNS: Final = ("follow", "agree", "leak", "obey", "kl", "saved")
_FEWEST_LEAKS, _MOST_KL, _SHARE = 0.02, 0.02, 0.9


def messages(count: int, *, seed: int = 0) -> list[str]:
    """Return messages of residents, composed of parts that a keyed hash selects.

    Args:
        count: Number of different messages.
        seed: Seed of the hash.
    """
    parts = yaml.safe_load((_DATA / "messages.yaml").read_text(encoding="utf-8"))
    topics = list(parts["problems"])

    def choose(number: int, kind: str, values: Sequence[str]) -> str:
        return values[rank(seed, f"{number}", kind) % len(values)]

    texts: dict[str, None] = {}
    number = 0
    while len(texts) < count:
        problem = choose(number, "problem", parts["problems"][topics[number % len(topics)]])
        sentences = [
            choose(number, "opening", parts["openings"]),
            capital(problem),
            choose(number, "detail", parts["details"]),
            choose(number, "ending", parts["endings"]),
        ]
        names = ("name", "street", "time")
        slots = {name: choose(number, name, parts[f"{name}s"]) for name in names}
        texts[" ".join(sentences).format(**slots)] = None
        number += 1
    return list(texts)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the ways and seeds that are not finished, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="name, folder or .gguf file")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--ways", nargs="+", choices=_WAYS, default=list(_WAYS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    queries = options.work / "messages.jsonl"
    lines = [json.dumps({"query": text}) for text in messages(2 * options.rows)]
    queries.write_text("\n".join(lines) + "\n", encoding="utf-8")
    results: dict[str, list[DistillResult]] = {}
    for seed, way in product(options.seeds, options.ways):
        results.setdefault(way, []).append(_run(options, way, seed, queries))
        print(f"{way}, seed {seed}", flush=True)
    text = _table(results)
    print(text)
    if set(results) == set(_WAYS) and len(options.seeds) > 1:
        name = Path(options.model).stem
        replace_section(RESULTS, f"Distillation of prompts ({name})", f"{now()}\n\n{text}")


def _run(options: argparse.Namespace, way: str, seed: int, queries: Path) -> DistillResult:
    settings = DistillSettings(
        {
            token: (_DATA / file).read_text(encoding="utf-8").strip()
            for token, file in _TOKENS.items()
        },
        queries=str(queries),
        rows=options.rows,
        constraints=yaml.safe_load((_DATA / "constraints.yaml").read_text(encoding="utf-8")),
        seed=seed,
    )
    values = {"model": options.model, "epochs": options.epochs, "packing": True, "max_length": 1024}
    training = read_recipe("smollm2-135m-cpu", {**values, **_WAYS[way], "device": options.device})
    out = options.work / f"{way}-{seed}"
    first_way = next(iter(_WAYS))
    prompts = options.work / f"{first_way}-{seed}" / "prompts"
    if way != first_way and prompts.is_dir() and not out.exists():
        first = json.loads((prompts.parent / "distill.json").read_text(encoding="utf-8"))
        settings_used = replace(training, token=tuple(_TOKENS), seed=seed).as_dict()
        out.mkdir()
        (out / "distill.json").write_text(json.dumps({**first, "training": settings_used}), "utf-8")
        shutil.copytree(prompts, out / "prompts")
    return distill(out, settings, training)


def _table(results: dict[str, list[DistillResult]]) -> str:
    """Return a table with a row for each way and token: means over seeds, and of the prompt."""
    rows = []
    for way, runs in results.items():
        for token in _TOKENS:
            tokens = [run.tokens[token] for run in runs]
            cells = [_mean(tokens, name) for name in _COLUMNS]
            follow, ceiling = (_value(tokens, "follow", system) for system in (None, INSTRUCTED))
            leak, kl = (_value(tokens, name, None) for name in ("leak", "kl"))
            reached = (
                None not in (follow, ceiling, leak, kl)
                and follow >= _SHARE * ceiling  # type: ignore[operator]
                and leak <= _FEWEST_LEAKS  # type: ignore[operator]
                and kl <= _MOST_KL  # type: ignore[operator]
            )
            shorter = fmean(one.full_tokens / one.prompt_tokens for one in tokens)
            prompt = _mean(tokens, "follow", INSTRUCTED)
            times = fmean(one.full_prefill_s / one.prefill_s for one in tokens)
            ratios = [f"{shorter:.1f}x", f"{times:.1f}x", "yes" if reached else "no"]
            rows.append([way, f"`{token}`", prompt, *cells, *ratios])
    head = ["way", "token", "prompt follows", *_COLUMNS, "shorter", "prefill", "targets"]
    return table(head, rows)


def _value(tokens: Sequence[DistilledToken], name: str, system: str | None) -> float | None:
    estimates = [
        one.evaluation.number(name) if system is None else one.evaluation.number(name, system)
        for one in tokens
    ]
    values = [estimate.value for estimate in estimates if estimate is not None]
    return fmean(values) if len(values) == len(tokens) else None


def _mean(tokens: Sequence[DistilledToken], name: str, system: str | None = None) -> str:
    value = _value(tokens, name, system)
    return "–" if value is None else BY_NAME[name].text(value)


if __name__ == "__main__":
    main()
