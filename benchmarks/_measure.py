"""Measure the time and memory of a way to mix in its own process.

    measure(name, inputs, work) ──▶ python -m benchmarks._measure ──▶ JSON on its last line

Linux only. Peaks are read from `/proc`, and reset between building and iterating. The peak of
resident memory (`VmHWM`) equals `ru_maxrss` without the memory that a process inherits from its
parent. It includes pages of mapped files, which the system can reclaim. `own_mib` excludes them,
and is sampled every 20 ms.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks._inputs import Inputs
from benchmarks._process import ROOT, own_mib, status_mib
from benchmarks.candidates import CANDIDATES, OURS, Candidate

_INTERVAL_S: Final = 0.02
_BATCH: Final = 1_000  # rows
# A load hashes files that were just written, because two changes may have the same time stamp. A
# warm load comes after that.
_SETTLED_S: Final = 3.0


@dataclass(slots=True)
class Phase:
    """Measurements of a part of a run.

    Attributes:
        wall_s: Seconds.
        cpu_s: CPU seconds of all threads and finished child processes.
        peak_mib: Peak resident memory in MiB, including pages of mapped files.
        own_mib: Peak resident memory in MiB, excluding them.
    """

    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_mib: float = 0.0
    own_mib: float = 0.0


@dataclass(slots=True)
class Run:
    """Measurements of a run of a candidate.

    Attributes:
        rows: Number of rows.
        task_rows: Number of rows that name `<sep>`.
        build: Building the dataset.
        first_row_s: Seconds from the same call to the first row.
        iterate: `for row in dataset`, over all rows.
        batches: `for batch in dataset.iter(1_000)`, over all rows again.
    """

    rows: int = 0
    task_rows: int = 0
    build: Phase = field(default_factory=Phase)
    first_row_s: float = 0.0
    iterate: Phase = field(default_factory=Phase)
    batches: Phase = field(default_factory=Phase)


def measure(name: str, inputs: Inputs, work: Path) -> Run:
    """Run a candidate in a new process and a new folder.

    Raises:
        RuntimeError: It failed, or its number of rows is wrong.
    """
    values = _in_process({"candidate": name, "inputs": asdict(inputs)}, work)
    values |= {key: Phase(**values[key]) for key in ("build", "iterate", "batches")}
    return Run(**values)


def measure_warm(inputs: Inputs, work: Path, repeats: int) -> list[tuple[float, float]]:
    """Return the seconds of warm loads, (`delia_mix`, `parquet` of the same rows) per repeat.

    Raises:
        RuntimeError: A load failed, or the two have different rows.
    """
    times = _in_process({"warm": repeats, "inputs": asdict(inputs)}, work)
    return [(ours, parquet) for ours, parquet in times]


def measure_ratios(inputs: Inputs, work: Path, ratios: Sequence[int]) -> list[float]:
    """Return the seconds of `load_dataset` for each ratio of one cache, each in a new process.

    Raises:
        RuntimeError: A load failed, or its number of rows is wrong.
    """
    with tempfile.TemporaryDirectory(dir=work, prefix="home-") as home:
        return [
            _in_process({"ratio": ratio, "inputs": asdict(inputs)}, work, cache_home=home)
            for ratio in ratios
        ]


def measure_headline(work: Path, ratio: int) -> tuple[float, float]:
    """Return the seconds of a cold and a warm `load_dataset("delia_mix", ratio=ratio)`.

    Each load has its own process, and imports are not measured. The warm load uses the cache of
    the cold load.

    Raises:
        RuntimeError: A load failed, or its number of rows is wrong.
    """
    with tempfile.TemporaryDirectory(dir=work, prefix="home-") as home:
        cold, warm = (_in_process({"headline": ratio}, work, home=home) for _ in range(2))
    return cold, warm


def _in_process(
    job: dict[str, Any], work: Path, *, home: str | None = None, cache_home: str | None = None
) -> Any:
    """Run this module in a new process, which writes into a new folder of `work`.

    Args:
        job: Arguments of `_main`, as JSON.
        work: Parent of the new folder.
        home: Cache of `datasets` to use instead of a new one.
        cache_home: Home of all other caches to use instead of a new one.
    """
    with tempfile.TemporaryDirectory(dir=work, prefix="run-") as folder:
        for name in ("tmp", "out"):
            (Path(folder) / name).mkdir()
        environment = {
            **os.environ,
            "HF_HOME": home or f"{folder}/hf",
            "XDG_CACHE_HOME": cache_home or f"{folder}/cache",
            "TMPDIR": f"{folder}/tmp",
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        }
        process = subprocess.run(
            [sys.executable, "-m", "benchmarks._measure", json.dumps(job), f"{folder}/out"],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    os.sync()  # so that pending writes do not slow down the next run
    if process.returncode:
        name = job.get("candidate", "a load")
        raise RuntimeError(f"{name} failed ({process.returncode}):\n{process.stderr[-4000:]}")
    return json.loads(process.stdout.splitlines()[-1])


@contextmanager
def _phase(phase: Phase) -> Iterator[None]:
    """Measure the block, and set the values of `phase`."""
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(_INTERVAL_S):
            phase.own_mib = max(phase.own_mib, own_mib())

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    cpu, wall = _cpu_s(), time.perf_counter()
    yield
    phase.wall_s, phase.cpu_s = time.perf_counter() - wall, _cpu_s() - cpu
    ended.set()
    sampler.join()
    phase.peak_mib = status_mib("VmHWM")
    phase.own_mib = max(phase.own_mib, own_mib())


def _cpu_s() -> float:
    children = os.times()
    return time.process_time() + children.children_user + children.children_system


def _run(candidate: Candidate, inputs: Inputs, folder: Path) -> Run:
    for module in candidate.modules:
        importlib.import_module(module)
    run = Run()
    with _phase(run.build):
        began = time.perf_counter()
        dataset = candidate.build(inputs, folder)
    next(iter(dataset))
    run.first_row_s = time.perf_counter() - began
    with _phase(run.iterate):
        for row in dataset:
            run.rows += 1
            run.task_rows += "<sep>" in row["messages"][0]["content"]
    with _phase(run.batches):
        in_batches = sum(len(batch["messages"]) for batch in dataset.iter(_BATCH))
    if in_batches != run.rows or not candidate.is_correct(inputs, run.rows, run.task_rows):
        raise RuntimeError(
            f"{candidate.name} returned {run.rows} rows, {run.task_rows} of the task, from {inputs}"
        )
    return run


def _run_warm(inputs: Inputs, folder: Path, repeats: int) -> list[tuple[float, float]]:
    from datasets import load_dataset

    import delia_data  # noqa: F401  (registers delia_mix)

    file, cache_dir = str(folder / "rows.parquet"), str(folder / "cache")

    def ours() -> Any:
        options = {"ratio": inputs.ratio, "task": inputs.task, "cache": inputs.cache}
        return load_dataset("delia_mix", **options, cache_dir=cache_dir)

    def parquet() -> Any:
        return load_dataset("parquet", data_files=file, cache_dir=cache_dir)

    def seconds(load: Any) -> float:
        began = time.perf_counter()
        load()
        return time.perf_counter() - began

    cold = ours()["train"]
    cold.to_parquet(file)
    copy = parquet()["train"]
    if not cold.num_rows == copy.num_rows == inputs.rows or cold[-1] != copy[-1]:
        raise RuntimeError(f"{cold.num_rows} and {copy.num_rows} rows, or different ones")
    time.sleep(_SETTLED_S)
    seconds_of_repeats = []
    for repeat in range(repeats):
        loads = (ours, parquet) if repeat % 2 else (parquet, ours)
        times = {load: seconds(load) for load in loads}
        seconds_of_repeats.append((times[ours], times[parquet]))
    return seconds_of_repeats


def _run_headline(ratio: int) -> float:
    for module in OURS.modules:
        importlib.import_module(module)
    from datasets import load_dataset

    began = time.perf_counter()
    mixture = load_dataset("delia_mix", ratio=ratio)
    seconds = time.perf_counter() - began
    rows = mixture["train"].num_rows
    if rows != (1 + ratio) * mixture["test"].num_rows:  # the splits have as many task rows
        raise RuntimeError(f"{rows} rows at ratio {ratio}")
    return seconds


def _run_ratio(inputs: Inputs, folder: Path, ratio: int) -> float:
    for module in (*OURS.modules, "delia_data.builders.delia_mix"):
        importlib.import_module(module)
    from datasets import load_dataset

    began = time.perf_counter()
    rows = load_dataset(
        "delia_mix",
        ratio=ratio,
        task=inputs.task,
        cache=inputs.cache,
        cache_dir=str(folder),
        split="train",
    )
    seconds = time.perf_counter() - began
    if rows.num_rows != (1 + ratio) * inputs.task_rows:
        raise RuntimeError(f"{rows.num_rows} rows at ratio {ratio}")
    return seconds


def _main(job: dict[str, Any], folder: Path) -> Any:
    if "headline" in job:
        return _run_headline(job["headline"])
    inputs = Inputs(**job["inputs"])
    if "ratio" in job:
        return _run_ratio(inputs, folder, job["ratio"])
    if "warm" in job:
        return _run_warm(inputs, folder, job["warm"])
    candidate = next(each for each in CANDIDATES if each.name == job["candidate"])
    return asdict(_run(candidate, inputs, folder))


if __name__ == "__main__":
    print(json.dumps(_main(json.loads(sys.argv[1]), Path(sys.argv[2]))))
