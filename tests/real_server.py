"""A real OpenAI-compatible server on loopback, `transformers serve`, with the embedded model."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from delia_data.models import embedded_model

_START_S = 180
_SERVE = "import sys; from transformers.cli.transformers import main; sys.exit(main())"


@dataclass(frozen=True)
class RealServer:
    """The server's address and the name of its model."""

    url: str
    model: str


@contextmanager
def serving() -> Iterator[RealServer]:
    """Run the server in a process of its own, and stop it afterwards."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    model = str(embedded_model())
    command = [sys.executable, "-c", _SERVE, "serve", model, "--host", "127.0.0.1"]
    command += ["--port", str(port), "--device", "cpu", "--dtype", "bfloat16"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            if not _answers(f"http://127.0.0.1:{port}/health", process):
                log.seek(0)
                raise AssertionError(f"the server did not start:\n{log.read()[-2000:]}")
            yield RealServer(f"http://127.0.0.1:{port}/v1", model)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _answers(url: str, process: subprocess.Popen[bytes]) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    until = time.monotonic() + _START_S
    while time.monotonic() < until and process.poll() is None:
        try:
            with opener.open(url, timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    return False
