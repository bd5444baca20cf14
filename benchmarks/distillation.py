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

Each finished run goes into `benchmarks/distillation/runs/MODEL/WAY-SEED.json`, without weights and
with a few answers. The section of RESULTS.md shows the runs there that have equal settings.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import yaml

from benchmarks._report import RESULTS, now, replace_section, table
from delia_data.distill import DistilledToken, DistillResult, DistillSettings, distill
from delia_data.evaluation import read_evaluation
from delia_data.evaluation.generation import INSTRUCTED, MODEL
from delia_data.evaluation.scores import BY_NAME
from delia_data.evaluation.tables import capital
from delia_data.outputs import from_json, write_json
from delia_data.ranking import rank
from delia_data.training import read_recipe

__all__ = ["Run", "main", "messages", "read_runs"]

_DATA: Final = Path(__file__).with_name("distillation")
_TOKENS: Final = {"<extract>": "extract.txt", "<reply>": "reply.txt", "<sort>": "sort.txt"}
_WAYS: Final[dict[str, dict[str, Any]]] = {
    "kl": {"pairs_loss": "kl"},
    "ce": {"pairs_loss": "ce"},
    "row": {"pairs_loss": "kl", "learning_rate": 1e-12},
}
_WAY_KEYS: Final = {key for values in _WAYS.values() for key in values}
_COLUMNS: Final = ("follow", "agree", "leak", "obey", "kl", "saved")
_FEWEST_LEAKS, _MOST_KL, _SHARE = 0.02, 0.02, 0.9
_EXAMPLES: Final = 2  # answers of a token that a run's file shows
RUNS: Final = _DATA / "runs"


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run, as its file holds it.

    Attributes:
        way: Way of training.
        seed: Seed of every step.
        settings: Settings of the run (`distill.json`); files have their names alone.
        tokens: The tokens.
        seconds: Duration of each step in seconds.
        requests: Requests that save the time of the run (`DistillResult`).
        examples: By token, some held-out requests with the answers to them and to the prompt.
    """

    way: str
    seed: int
    settings: Mapping[str, Any]
    tokens: Mapping[str, DistilledToken]
    seconds: Mapping[str, float]
    requests: int | None
    examples: Mapping[str, Sequence[Mapping[str, str]]]


def read_runs(folder: Path) -> list[Run]:
    """Read the finished runs of a model, in the order of ways and seeds."""
    files = folder.glob("*.json")
    runs = [from_json(Run, json.loads(file.read_text("utf-8")), str(file)) for file in files]
    return sorted(runs, key=lambda run: (list(_WAYS).index(run.way), run.seed))


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
    name = Path(options.model).stem
    for seed, way in product(options.seeds, options.ways):
        file = RUNS / name / f"{way}-{seed}.json"
        write_json(file, _values(options, way, seed, _run(options, way, seed, queries)))
        print(f"{way}, seed {seed}", flush=True)
        runs = read_runs(file.parent)
        [run] = [run for run in runs if (run.way, run.seed) == (way, seed)]
        text = _section([one for one in runs if _shared(one) == _shared(run)])
        replace_section(RESULTS, f"Distillation of prompts ({name})", f"{now()} UTC.\n\n{text}")
    print(text)


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


def _values(
    options: argparse.Namespace, way: str, seed: int, result: DistillResult
) -> dict[str, Any]:
    """Return a finished run as JSON values, without paths of this machine."""
    out = options.work / f"{way}-{seed}"
    examples = {}
    for token in result.tokens:
        _, rows = read_evaluation(out / "evaluation" / token.strip("<>"))
        answered = [row.answered for row in rows if row.answered.probe == "held-out"]
        examples[token] = [
            {
                "request": row.question,
                "token": row.answers[MODEL],
                "prompt": row.answers[INSTRUCTED],
            }
            for row in answered[:_EXAMPLES]
        ]
    settings = json.loads((out / "distill.json").read_text(encoding="utf-8"))
    run = Run(way, seed, settings, result.tokens, result.seconds, result.requests, examples)
    values: dict[str, Any] = _without_folders(asdict(run))
    return values


def _without_folders(value: Any) -> Any:
    """Return JSON values in which files and folders of this machine have their names alone."""
    match value:
        case dict():
            return {key: _without_folders(one) for key, one in value.items()}
        case list() | tuple():
            return [_without_folders(one) for one in value]
        case str() if "/" in value and len(value) < 1000 and Path(value).exists():
            return Path(value).name
    return value


def _shared(run: Run) -> dict[str, Any]:
    """Return the settings that neither the way nor the seed decides."""
    training = {k: v for k, v in run.settings["training"].items() if k not in ("seed", *_WAY_KEYS)}
    return {**run.settings, "seed": None, "training": training}


def _section(runs: Sequence[Run]) -> str:
    """Return the settings that runs share, the ways and seeds, and the table."""
    by_way = {way: [str(run.seed) for run in runs if run.way == way] for way in _WAYS}
    seeds = [f"{way} {', '.join(seeds)}" for way, seeds in by_way.items() if seeds]
    missing = [way for way, seeds in by_way.items() if not seeds]
    first = runs[0].settings
    return (
        f"Queries for each prompt: {first['rows']}; epochs: {first['training']['epochs']:g}. Means "
        f"over the seeds of each way: {'; '.join(seeds)}. Not run: {', '.join(missing) or 'none'}. "
        f"Targets: follow at least {_SHARE:.0%} of the prompt's, leak at most {_FEWEST_LEAKS:.0%}, "
        f"kl at most {_MOST_KL:g}.\n\n{_table(runs)}"
    )


def _table(runs: Sequence[Run]) -> str:
    """Return a table with a row for each way and token: means over seeds, and of the prompt."""
    rows = []
    for way, token in product(dict.fromkeys(run.way for run in runs), _TOKENS):
        tokens = [run.tokens[token] for run in runs if run.way == way]
        cells = [_mean(tokens, name) for name in _COLUMNS]
        follow, ceiling = (_value(tokens, "follow", system) for system in (MODEL, INSTRUCTED))
        leak, kl = (_value(tokens, name) for name in ("leak", "kl"))
        reached = (
            None not in (follow, ceiling, leak, kl)
            and follow >= _SHARE * ceiling > 0  # type: ignore[operator]
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


def _value(tokens: Sequence[DistilledToken], name: str, system: str = MODEL) -> float | None:
    estimates = [one.evaluation.number(name, system) for one in tokens]
    values = [estimate.value for estimate in estimates if estimate is not None]
    return fmean(values) if len(values) == len(tokens) else None


def _mean(tokens: Sequence[DistilledToken], name: str, system: str = MODEL) -> str:
    value = _value(tokens, name, system)
    return "–" if value is None else BY_NAME[name].text(value)


if __name__ == "__main__":
    main()
