"""Environments of the peers that sampling is measured beside: one each, made once and kept."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CURATOR", "DATATROVE", "DISTILABEL", "Environment"]


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment.

    Attributes:
        name: What its folder is called.
        packages: What is installed into it.
    """

    name: str
    packages: tuple[str, ...]

    def python(self, work: Path) -> str:
        """Its interpreter; the environment is made where it is not there.

        Raises:
            RuntimeError: It cannot be made.
        """
        folder = work / "environments" / self.name
        ready = folder / "ready"
        wanted = "\n".join(self.packages)
        python = folder / "bin" / "python"
        if ready.exists() and ready.read_text() == wanted:
            return str(python)
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(folder)],
            [str(python), "-m", "pip", "install", "-q", *self.packages],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"no environment for {self.name}:\n{done.stderr[-2000:]}")
        ready.write_text(wanted)
        return str(python)


# Its own extra for inference would bring vLLM and SGLang along; the endpoint server needs neither.
DATATROVE = Environment(
    "datatrove", ("datatrove[io]==0.10.1", "aiofiles", "aiosqlite", "httpx", "numpy<2.3", "pandas")
)
CURATOR = Environment("curator", ("bespokelabs-curator==0.1.31",))
# It imports requests without asking for it.
DISTILABEL = Environment("distilabel", ("distilabel[openai]==1.5.3", "requests"))
