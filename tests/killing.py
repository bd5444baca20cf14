"""Kill a process while it works."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_PATIENCE_S = 900


def _environment(**more: str) -> dict[str, str]:
    """Return an environment in which a process imports the modules of `tests`."""
    places = (str(Path(__file__).parent), *sys.path)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(places), **more}


def _heed_interrupts() -> None:
    """Handle Ctrl-C, which background jobs of a shell and their children ignore."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def stop_when(
    reached: Callable[[], bool],
    *arguments: object,
    how: signal.Signals = signal.SIGKILL,
    **environment: str,
) -> int:
    """Run Python with arguments, stop it as soon as a condition holds, and return its exit code.

    Its modules may import those of `tests`.
    """
    until = time.monotonic() + _PATIENCE_S
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env=_environment(**environment),
            preexec_fn=_heed_interrupts if how == signal.SIGINT else None,
        )
        while not reached():
            if process.poll() is not None or time.monotonic() > until:
                process.kill()
                errors.seek(0)
                raise AssertionError(f"exit code {process.wait()}: {errors.read()}")
            time.sleep(0.005)
        process.send_signal(how)
        code = process.wait(_PATIENCE_S)
    assert code, "it ended before it was stopped"
    return code


def lines_in(log: Path, count: int) -> Callable[[], bool]:
    """Return a function that tells whether a file has as many complete lines."""
    return lambda: log.exists() and log.read_bytes().count(b"\n") >= count


def kills(log: str, run: Callable[[int], None]) -> Iterator[int]:
    """Run a function in five children one by one, and kill each while it works.

    A child works once its file, `log` and its number, has content; it then has a random time to
    live, whose seed ends the name of the log. Yield each number after its kill.
    """
    moments = random.Random(int(log.rsplit("-", 1)[1]))
    for number in range(5):
        if (child := os.fork()) == 0:
            run(number)
            os._exit(0)
        file = Path(f"{log}{number}")
        while not (file.exists() and file.stat().st_size):
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.2))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), "the child was done before it was killed"
        yield number


def run_to_end(*arguments: object) -> None:
    """Run Python with arguments; its modules may import those of `tests`."""
    command = [sys.executable, *map(str, arguments)]
    subprocess.run(command, check=True, timeout=240, env=_environment())
