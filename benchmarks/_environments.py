"""Virtual environments of the libraries that sampling is compared with."""

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
        name: Name of its folder.
        packages: Requirements to install.
    """

    name: str
    packages: tuple[str, ...]

    def python(self, work: Path) -> str:
        """Return the path of its interpreter, and create the environment first if needed.

        Raises:
            RuntimeError: The environment could not be created.
        """
        folder = work / "environments" / self.name
        ready = folder / "ready"
        requirements = "\n".join(self.packages)
        python = folder / "bin" / "python"
        if ready.exists() and ready.read_text() == requirements:
            return str(python)
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(folder)],
            [str(python), "-m", "pip", "install", "-q", *self.packages],
        ):
            process = subprocess.run(command, capture_output=True, text=True, check=False)
            if process.returncode:
                raise RuntimeError(
                    f"could not create the environment {self.name}:\n{process.stderr[-2000:]}"
                )
        ready.write_text(requirements)
        return str(python)


# datatrove's extra for inference also installs vLLM and SGLang, which an endpoint does not need.
DATATROVE = Environment(
    "datatrove", ("datatrove[io]==0.10.1", "aiofiles", "aiosqlite", "httpx", "numpy<2.3", "pandas")
)
CURATOR = Environment("curator", ("bespokelabs-curator==0.1.31",))
# distilabel imports requests without requiring it.
DISTILABEL = Environment("distilabel", ("distilabel[openai]==1.5.3", "requests"))
