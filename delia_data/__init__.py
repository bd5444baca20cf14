"""Data that teaches a language model a small task, not its phrasing.

An implementation of DELIA (arXiv 2408.10841): caches of a model's own answers, wordings of a task's
instruction in which a new token stands for the output format, and mixtures of both.

    import delia_data                                 # registers the names with `datasets`
    from datasets import load_dataset

    load_dataset("delia_mix", ratio=260)                   # or your own task=..., cache=...
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from delia_data._after_import import after_import
from delia_data._version import __version__
from delia_data.errors import DeliaError

if TYPE_CHECKING:
    from delia_data.mixing import Mixture, mix, save_mixture
    from delia_data.ranking import rank, row_seed
    from delia_data.reading import read_records
    from delia_data.records import Message, Record, read_record, write_record
    from delia_data.registration import register
    from delia_data.tokens import DEFAULT_TOKEN, add_token, lint
else:
    # Imported on first use, because the command line imports this package first.
    _FOUND_IN: Final = {
        "mixing": ("Mixture", "mix", "save_mixture"),
        "ranking": ("rank", "row_seed"),
        "reading": ("read_records",),
        "records": ("Message", "Record", "read_record", "write_record"),
        "registration": ("register",),
        "tokens": ("DEFAULT_TOKEN", "add_token", "lint"),
    }

    def __getattr__(name: str) -> Any:
        from importlib import import_module

        for module, names in _FOUND_IN.items():
            if name in names:
                value = getattr(import_module(f"{__name__}.{module}"), name)
                globals()[name] = value
                return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


__all__ = [
    "DEFAULT_TOKEN",
    "DeliaError",
    "Message",
    "Mixture",
    "Record",
    "__version__",
    "add_token",
    "lint",
    "mix",
    "rank",
    "read_record",
    "read_records",
    "register",
    "row_seed",
    "save_mixture",
    "write_record",
]


def _register() -> None:
    from delia_data.registration import register

    register()


after_import("datasets", _register)
