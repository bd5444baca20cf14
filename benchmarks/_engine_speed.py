"""Tokens a second of `sample()` beside the bare engine, and beside batches one after another.

Runs in a process of its own, `PYTHON -m benchmarks._engine_speed transformers|vllm PROMPTS
MAX_TOKENS ROUNDS`, where PYTHON has the engine; all ways take turns on one loaded model.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import quantiles
from typing import Any, Final

from benchmarks._process import run_script
from benchmarks._report import Spread, Target, table, target_table

__all__ = ["engine_speed"]

OURS: Final = "delia_data: sample()"
BARE: Final = "the bare engine, all prompts at once"
PAPER: Final = "batches of 128, one after another"
_BATCH: Final = 128
_SORTED: Final = 32  # prompts of a batch of the bare transformers, sorted by length
_VLLM: Final = {"max_model_len": 1024, "max_num_seqs": 128}

Way = Callable[[], list[int]]  # answers everything, and gives the lengths of the answers


def engine_speed(work: Path, python: str, name: str, prompts: int, most: int, rounds: int) -> str:
    """Run an engine's process, and give the section's text."""
    command = [python, "-m", "benchmarks._engine_speed", name, str(prompts), str(most), str(rounds)]
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")  # the unpacked model
    printed = run_script(command, environment={"XDG_CACHE_HOME": home}, work=work).printed
    done = printed["rounds"]

    def ratio(of: str) -> Spread:
        return Spread.of(each[OURS]["rate"] / each[of]["rate"] for each in done)

    targets = [
        Target(f"tokens/s, {OURS} / {BARE}", ratio(BARE), 0.97, at_least=True),
        Target(f"tokens/s, {OURS} / {PAPER}", ratio(PAPER), 1.2, at_least=True),
    ]

    def per_cpu_s(way: str) -> str:
        """Tokens a processor second; vLLM computes in processes of its own, unseen here."""
        known = [each[way]["tokens"] / each[way]["cpu_s"] for each in done]
        return Spread.of(known).text() if name == "transformers" else ""

    lines = [
        [
            way,
            Spread.of(each[way]["rate"] for each in done).text(),
            per_cpu_s(way),
            f"{Spread.of(each[way]['tokens'] for each in done).median:,.0f}",
            ", ".join(f"{length:.0f}" for length in done[0][way]["quartiles"]),
        ]
        for way in (OURS, BARE, PAPER)
    ]
    head = ["way", "tokens/s", "tokens per CPU s", "tokens", "answers' lengths, quartiles"]
    return f"{printed['about']}\n\n{target_table(targets)}\n\n{table(head, lines)}"


def _main(name: str, prompts: str, most: str, rounds: str) -> None:
    from delia_data.engines import Sampling
    from delia_data.sampling import bundled_queries

    queries = bundled_queries(int(prompts))
    ways, about = _ENGINES[name](queries, Sampling(max_tokens=int(most)))
    done: list[dict[str, Any]] = []
    for number in range(int(rounds)):
        turn = list(ways)[number % len(ways) :] + list(ways)[: number % len(ways)]
        taken = {}
        for way in turn:
            cpu, began = time.process_time(), time.perf_counter()
            lengths = ways[way]()
            wall, cpu = time.perf_counter() - began, time.process_time() - cpu
            taken[way] = {
                "rate": sum(lengths) / wall,
                "cpu_s": cpu,
                "tokens": sum(lengths),
                "quartiles": quantiles(lengths, n=4),
            }
            print(f"  {name}, {way}: {taken[way]}", file=sys.stderr, flush=True)
        done.append(taken)
    print(json.dumps({"about": about, "rounds": done}))


def _sampled(engine: Any, queries: Sequence[Any], sampling: Any) -> Way:
    """Sample into a new folder, all its files included."""

    def way() -> list[int]:
        import pyarrow.parquet as pq

        from delia_data.sampling import sample

        with tempfile.TemporaryDirectory() as folder:
            sample(engine, queries, folder, target=len(queries), sampling=sampling, filters=())
            files = Path(folder).glob("pairs-*.parquet")
            return [n for f in files for n in pq.read_table(f)["tokens"].to_pylist()]

    return way


def _prompts(queries: Sequence[Any], tokenizer: Any) -> list[list[int]]:
    from delia_data.tokens import render_ids

    turns = [[{"role": "user", "content": query.text}] for query in queries]
    return [render_ids(tokenizer, each, generate=True) for each in turns]


def _transformers(queries: Sequence[Any], sampling: Any) -> tuple[dict[str, Way], str]:
    import torch

    from delia_data.engines.transformers import TransformersEngine
    from delia_data.models import load_model, load_tokenizer

    model, tokenizer = load_model(), load_tokenizer()
    prompts = _prompts(queries, tokenizer)
    pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id

    def generate(batch: list[list[int]]) -> list[int]:
        width = max(map(len, batch))
        with torch.inference_mode():
            output = model.generate(
                input_ids=torch.tensor([[pad] * (width - len(p)) + p for p in batch]),
                attention_mask=torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in batch]),
                do_sample=True,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=0,
                max_new_tokens=sampling.max_tokens,
                pad_token_id=pad,
            )
        answers = output[:, width:].tolist()
        return [answer.index(end) + 1 if end in answer else len(answer) for answer in answers]

    def in_batches(ordered: list[list[int]], size: int) -> list[int]:
        return [n for at in range(0, len(ordered), size) for n in generate(ordered[at : at + size])]

    ways = {
        OURS: _sampled(TransformersEngine(model, tokenizer), queries, sampling),
        BARE: lambda: in_batches(sorted(prompts, key=len), _SORTED),
        PAPER: lambda: in_batches(prompts, _BATCH),
    }
    about = (
        f"transformers on {torch.get_num_threads()} threads; the bare engine is `generate` in "
        f"batches of {_SORTED}, prompts sorted by length."
    )
    return ways, about


def _vllm(queries: Sequence[Any], sampling: Any) -> tuple[dict[str, Way], str]:
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "4")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    import vllm

    from delia_data.engines.vllm import ROW_SAMPLER, VllmEngine
    from delia_data.models import DEFAULT_MODEL, load_tokenizer, resolve_model

    tokenizer = load_tokenizer()
    settings = {
        "dtype": "bfloat16",
        "enforce_eager": True,
        "logits_processors": [ROW_SAMPLER],
        **_VLLM,
    }
    bare = vllm.LLM(resolve_model(DEFAULT_MODEL), **settings)
    prompts = [{"prompt_token_ids": ids} for ids in _prompts(queries, tokenizer)]
    how = vllm.SamplingParams(
        temperature=sampling.temperature, top_p=sampling.top_p, max_tokens=sampling.max_tokens
    )

    def generate(some: list[Any]) -> list[int]:
        outputs = bare.generate(some, how, use_tqdm=False)
        return [len(output.outputs[0].token_ids) for output in outputs]

    def in_batches() -> list[int]:
        return [
            n for at in range(0, len(prompts), _BATCH) for n in generate(prompts[at : at + _BATCH])
        ]

    ways = {
        OURS: _sampled(VllmEngine(DEFAULT_MODEL, bare.llm_engine, tokenizer), queries, sampling),
        BARE: lambda: generate(prompts),
        PAPER: in_batches,
    }
    held = _VLLM["max_num_seqs"]
    return (
        ways,
        f"vLLM {vllm.__version__} on a CPU, {held} answers at once; the same engine for all.",
    )


_ENGINES: Final = {"transformers": _transformers, "vllm": _vllm}


if __name__ == "__main__":
    _main(*sys.argv[1:])
