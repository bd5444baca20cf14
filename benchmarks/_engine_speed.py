"""Compare the tokens/s of `sample()` with those of the engine alone and of consecutive batches.

The measurement has its own process: `PYTHON -m benchmarks._engine_speed transformers|vllm PROMPTS
MAX_TOKENS ROUNDS [SYSTEM]`. PYTHON is an interpreter with the engine, SYSTEM a file with a system
prompt. All methods share one loaded model.
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

from benchmarks._cases import log, take_turns
from benchmarks._process import run_script
from benchmarks._report import Spread, Target, table, target_table

__all__ = ["engine_speed"]

OURS: Final = "delia_data: sample()"
BARE: Final = "engine alone, all prompts at once"
PAPER: Final = "consecutive batches of 128"
_BATCH: Final = 128
_SORTED_BATCH: Final = 32  # of transformers alone, prompts sorted by length
_VLLM: Final = {"max_model_len": 1024, "max_num_seqs": 128}

Method = Callable[[], list[int]]  # answers all prompts, and returns the lengths of the answers


def engine_speed(
    work: Path,
    python: str,
    name: str,
    prompts: int,
    most: int,
    rounds: int,
    system: Path | None = None,
) -> str:
    """Run the process of an engine, and return the text of the section."""
    values = [name, prompts, most, rounds, *([] if system is None else [system])]
    command = [python, "-m", "benchmarks._engine_speed", *map(str, values)]
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")  # the unpacked model
    printed = run_script(command, environment={"XDG_CACHE_HOME": home}, work=work).printed
    rounds_run = printed["rounds"]

    def ratio(method: str) -> Spread:
        return Spread.of(each[OURS]["rate"] / each[method]["rate"] for each in rounds_run)

    targets = [
        Target(f"tokens/s, {OURS} / {BARE}", ratio(BARE), 0.97, at_least=True),
        Target(f"tokens/s, {OURS} / {PAPER}", ratio(PAPER), 1.2, at_least=True),
    ]

    def per_cpu_s(method: str) -> str:
        """Return tokens per CPU second; unknown for vLLM, which computes in other processes."""
        rates = [each[method]["tokens"] / each[method]["cpu_s"] for each in rounds_run]
        return Spread.of(rates).text() if name == "transformers" else ""

    lines = [
        [
            method,
            Spread.of(each[method]["rate"] for each in rounds_run).text(),
            per_cpu_s(method),
            f"{Spread.of(each[method]['tokens'] for each in rounds_run).median:,.0f}",
            ", ".join(f"{length:.0f}" for length in rounds_run[0][method]["quartiles"]),
        ]
        for method in (OURS, BARE, PAPER)
    ]
    head = ["method", "tokens/s", "tokens per CPU s", "tokens", "quartiles of answer lengths"]
    return f"{printed['about']}\n\n{target_table(targets)}\n\n{table(head, lines)}"


def _main(name: str, prompts: str, most: str, rounds: str, file: str = "") -> None:
    from delia_data.engines import Sampling
    from delia_data.sampling import bundled_queries

    queries = bundled_queries(int(prompts))
    system = Path(file).read_text("utf-8").strip() if file else None
    methods, about = _ENGINES[name](queries, Sampling(max_tokens=int(most)), system)
    rounds_run: list[dict[str, Any]] = []
    for names in take_turns(list(methods), int(rounds)):
        runs = {}
        for method in names:
            cpu, began = time.process_time(), time.perf_counter()
            lengths = methods[method]()
            wall, cpu = time.perf_counter() - began, time.process_time() - cpu
            runs[method] = {
                "rate": sum(lengths) / wall,
                "cpu_s": cpu,
                "tokens": sum(lengths),
                "quartiles": quantiles(lengths, n=4),
            }
            log(f"  {name}, {method}: {runs[method]}")
        rounds_run.append(runs)
    print(json.dumps({"about": about, "rounds": rounds_run}))


def _sampled(engine: Any, queries: Sequence[Any], sampling: Any, system: str | None) -> Method:
    """Return a method that samples into a new folder."""

    def method() -> list[int]:
        import pyarrow.parquet as pq

        from delia_data.sampling import PromptOptions, sample

        with tempfile.TemporaryDirectory() as folder:
            sample(
                engine,
                queries,
                folder,
                target=len(queries),
                sampling=sampling,
                prompts=PromptOptions(system=system),
                filters=(),
            )
            files = Path(folder).glob("pairs-*.parquet")
            return [n for f in files for n in pq.read_table(f)["tokens"].to_pylist()]

    return method


def _prompts(queries: Sequence[Any], tokenizer: Any, system: str | None) -> list[list[int]]:
    from delia_data.tokens import render_ids

    first = [] if system is None else [{"role": "system", "content": system}]
    turns = [[*first, {"role": "user", "content": query.text}] for query in queries]
    return [render_ids(tokenizer, each, generate=True) for each in turns]


def _transformers(
    queries: Sequence[Any], sampling: Any, system: str | None
) -> tuple[dict[str, Method], str]:
    import torch

    from delia_data.engines.transformers import TransformersEngine
    from delia_data.models import load_model, load_tokenizer

    model, tokenizer = load_model(), load_tokenizer()
    prompts = _prompts(queries, tokenizer, system)
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

    methods = {
        OURS: _sampled(TransformersEngine(model, tokenizer), queries, sampling, system),
        BARE: lambda: in_batches(sorted(prompts, key=len), _SORTED_BATCH),
        PAPER: lambda: in_batches(prompts, _BATCH),
    }
    about = (
        f"transformers on {torch.get_num_threads()} threads; the engine alone runs "
        f"`generate` in batches of {_SORTED_BATCH}, with prompts sorted by length."
    )
    return methods, about


def _vllm(
    queries: Sequence[Any], sampling: Any, system: str | None
) -> tuple[dict[str, Method], str]:
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "4")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    import vllm

    from delia_data.engines.local import ROW_SAMPLER
    from delia_data.engines.vllm import VllmEngine
    from delia_data.models import DEFAULT_MODEL, load_tokenizer, resolve_model

    tokenizer = load_tokenizer()
    settings = {
        "dtype": "bfloat16",
        "enforce_eager": True,
        "logits_processors": [ROW_SAMPLER],
        **_VLLM,
    }
    bare = vllm.LLM(resolve_model(DEFAULT_MODEL), **settings)
    prompts = [{"prompt_token_ids": ids} for ids in _prompts(queries, tokenizer, system)]
    params = vllm.SamplingParams(
        temperature=sampling.temperature, top_p=sampling.top_p, max_tokens=sampling.max_tokens
    )

    def generate(batch: list[Any]) -> list[int]:
        outputs = bare.generate(batch, params, use_tqdm=False)
        return [len(output.outputs[0].token_ids) for output in outputs]

    def in_batches() -> list[int]:
        return [
            n for at in range(0, len(prompts), _BATCH) for n in generate(prompts[at : at + _BATCH])
        ]

    methods = {
        OURS: _sampled(
            VllmEngine(DEFAULT_MODEL, bare.llm_engine, tokenizer), queries, sampling, system
        ),
        BARE: lambda: generate(prompts),
        PAPER: in_batches,
    }
    about = (
        f"vLLM {vllm.__version__} on a CPU, {_VLLM['max_num_seqs']} concurrent sequences; all "
        f"methods share one engine."
    )
    return methods, about


_ENGINES: Final = {"transformers": _transformers, "vllm": _vllm}


if __name__ == "__main__":
    _main(*sys.argv[1:])
