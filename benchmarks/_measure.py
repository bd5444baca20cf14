"""Runs one candidate in a process of its own, and says what it took.

    measure(name, inputs, work) ──▶ python -m benchmarks._measure ──▶ JSON on its last line

Linux alone: peaks are read from `/proc` and reset between building and iterating. The peak of
resident memory (`VmHWM`) is what `ru_maxrss` gives, less what a child inherits of its parent's. It
counts pages of mapped files, which the system takes back when it needs them; `own_mib` leaves them
out, and is sampled every 20 ms.
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
from benchmarks.candidates import CANDIDATES, OURS, Candidate

_ROOT: Final = Path(__file__).parents[1]
_SAMPLE_S: Final = 0.02
_BATCH: Final = 1_000  # rows
# A file that was written a moment ago is hashed at every load, since a clock may be too coarse to
# tell two changes apart: a warm load is one after that.
_SETTLED_S: Final = 3.0


@dataclass(slots=True)
class Phase:
    """What one part of a run took.

    Attributes:
        wall_s: Seconds.
        cpu_s: Processor seconds of all threads, and of child processes that ended.
        peak_mib: Peak of resident memory, pages of mapped files included.
        own_mib: Peak of resident memory without them.
    """

    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_mib: float = 0.0
    own_mib: float = 0.0


@dataclass(slots=True)
class Measured:
    """One run of one candidate.

    Attributes:
        rows: Rows of the result, counted by iterating.
        task_rows: Those of them that name `<sep>`.
        build: From the call until the dataset is there.
        first_row_s: Seconds from the same call until its first row is there.
        iterate: `for row in dataset`, all rows.
        batches: `for batch in dataset.iter(1_000)`, all rows once more.
    """

    rows: int = 0
    task_rows: int = 0
    build: Phase = field(default_factory=Phase)
    first_row_s: float = 0.0
    iterate: Phase = field(default_factory=Phase)
    batches: Phase = field(default_factory=Phase)


def measure(name: str, inputs: Inputs, work: Path) -> Measured:
    """Build and iterate with the candidate of that name, in a new process and a new folder.

    Raises:
        RuntimeError: It failed, or gave another number of rows than it should.
    """
    found = _in_process({"candidate": name, "inputs": asdict(inputs)}, work)
    found |= {key: Phase(**found[key]) for key in ("build", "iterate", "batches")}
    return Measured(**found)


def measure_warm(inputs: Inputs, work: Path, repeats: int) -> list[tuple[float, float]]:
    """Seconds of warm loads, `delia_mix` and `parquet` of the same rows, alternating.

    Raises:
        RuntimeError: A load failed, or the two have different rows.
    """
    found = _in_process({"warm": repeats, "inputs": asdict(inputs)}, work)
    return [(ours, parquet) for ours, parquet in found]


def measure_ratios(inputs: Inputs, work: Path, ratios: Sequence[int]) -> list[float]:
    """Return the seconds of `load_dataset` for each ratio of one cache, each in a new process.

    Raises:
        RuntimeError: A load failed, or gave another number of rows than it should.
    """
    with tempfile.TemporaryDirectory(dir=work, prefix="home-") as home:
        return [
            _in_process({"ratio": ratio, "inputs": asdict(inputs)}, work, cache_home=home)
            for ratio in ratios
        ]


def measure_headline(work: Path, ratio: int) -> tuple[float, float]:
    """Seconds of `load_dataset("delia_mix", ratio=ratio)` after the imports, in two new processes.

    Nothing is prepared for the first one, and all that the first one prepared for the second.

    Raises:
        RuntimeError: A load failed, or gave another number of rows than it should.
    """
    with tempfile.TemporaryDirectory(dir=work, prefix="home-") as home:
        cold, warm = (_in_process({"headline": ratio}, work, home=home) for _ in range(2))
    return cold, warm


def _in_process(
    order: dict[str, Any], work: Path, *, home: str | None = None, cache_home: str | None = None
) -> Any:
    """Run this module on an order; all that it writes lies in a new folder of `work`.

    Args:
        order: What to run.
        work: Folder of folders.
        home: Home of `datasets`, where it is to outlive the process.
        cache_home: Home of all other caches, where it is to outlive the process.
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
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks._measure", json.dumps(order), f"{folder}/out"],
            cwd=_ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    os.sync()  # what one wrote is on disk before the next starts
    if done.returncode:
        raise RuntimeError(
            f"{order.get('candidate', 'a load')} failed ({done.returncode}):\n{done.stderr[-4000:]}"
        )
    return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def _phase(phase: Phase) -> Iterator[None]:
    """Fill `phase` with what the block takes."""
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(_SAMPLE_S):
            phase.own_mib = max(phase.own_mib, _own_mib())

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    cpu, wall = _cpu_s(), time.perf_counter()
    yield
    phase.wall_s, phase.cpu_s = time.perf_counter() - wall, _cpu_s() - cpu
    ended.set()
    sampler.join()
    phase.peak_mib = _status_mib("VmHWM")
    phase.own_mib = max(phase.own_mib, _own_mib())


def _cpu_s() -> float:
    children = os.times()
    return time.process_time() + children.children_user + children.children_system


def _own_mib() -> float:
    return _status_mib("RssAnon", "RssShmem")


def _status_mib(*names: str) -> float:
    """Sum of lines of `/proc/self/status`, such as `VmHWM:    10888 kB`, in MiB."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return sum(int(line[1]) for line in lines if line[0].rstrip(":") in names) / 1024


def _run(candidate: Candidate, inputs: Inputs, folder: Path) -> Measured:
    for module in candidate.modules:
        importlib.import_module(module)
    found = Measured()
    with _phase(found.build):
        began = time.perf_counter()
        dataset = candidate.build(inputs, folder)
    next(iter(dataset))
    found.first_row_s = time.perf_counter() - began
    with _phase(found.iterate):
        for row in dataset:
            found.rows += 1
            found.task_rows += "<sep>" in row["messages"][0]["content"]
    with _phase(found.batches):
        in_batches = sum(len(batch["messages"]) for batch in dataset.iter(_BATCH))
    if in_batches != found.rows or not candidate.right(inputs, found.rows, found.task_rows):
        raise RuntimeError(
            f"{candidate.name} gave {found.rows} rows, {found.task_rows} of the task, from {inputs}"
        )
    return found


def _run_warm(inputs: Inputs, folder: Path, repeats: int) -> list[tuple[float, float]]:
    from datasets import load_dataset

    import delia_data  # noqa: F401  (registers delia_mix)

    file, cache_dir = str(folder / "rows.parquet"), str(folder / "cache")

    def ours() -> Any:
        given = {"ratio": inputs.ratio, "task": inputs.task, "cache": inputs.cache}
        return load_dataset("delia_mix", **given, cache_dir=cache_dir)

    def parquet() -> Any:
        return load_dataset("parquet", data_files=file, cache_dir=cache_dir)

    def seconds(load: Any) -> float:
        began = time.perf_counter()
        load()
        return time.perf_counter() - began

    cold = ours()["train"]
    cold.to_parquet(file)
    same = parquet()["train"]
    if not cold.num_rows == same.num_rows == inputs.rows or cold[-1] != same[-1]:
        raise RuntimeError(f"{cold.num_rows} and {same.num_rows} rows, not {inputs.rows} alike")
    time.sleep(_SETTLED_S)
    taken = []
    for repeat in range(repeats):
        pair = (ours, parquet) if repeat % 2 else (parquet, ours)
        times = {load: seconds(load) for load in pair}
        taken.append((times[ours], times[parquet]))
    return taken


def _run_headline(ratio: int) -> float:
    for module in OURS.modules:
        importlib.import_module(module)
    from datasets import load_dataset

    began = time.perf_counter()
    found = load_dataset("delia_mix", ratio=ratio)
    taken = time.perf_counter() - began
    rows = found["train"].num_rows
    if rows != (1 + ratio) * found["test"].num_rows:  # as many held-out rows as training rows
        raise RuntimeError(f"{rows} rows at ratio {ratio}")
    return taken


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
    taken = time.perf_counter() - began
    if rows.num_rows != (1 + ratio) * inputs.task_rows:
        raise RuntimeError(f"{rows.num_rows} rows at ratio {ratio}")
    return taken


def _main(order: dict[str, Any], folder: Path) -> None:
    if "headline" in order:
        print(json.dumps(_run_headline(order["headline"])))
        return
    inputs = Inputs(**order["inputs"])
    if "ratio" in order:
        print(json.dumps(_run_ratio(inputs, folder, order["ratio"])))
        return
    if "warm" in order:
        print(json.dumps(_run_warm(inputs, folder, order["warm"])))
        return
    candidate = next(c for c in CANDIDATES if c.name == order["candidate"])
    print(json.dumps(asdict(_run(candidate, inputs, folder))))


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]), Path(sys.argv[2]))
