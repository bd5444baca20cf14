"""What the three builders share: settings that are checked, and tables cut into shards.

A dataset is prepared once for each configuration id, which carries the hash of every setting,
of the bytes of every input and of the version of this package.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import inspect
import operator
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import datasets
import pyarrow as pa
from datasets.builder import Key

from delia_data._version import __version__
from delia_data.builders._inputs import cache_sha256, task_sha256
from delia_data.builders._parts import Part, tables
from delia_data.builders._rows import RowsDataset
from delia_data.errors import InputError, SettingsError, TokenError
from delia_data.outputs import canonical_json

# `datasets` patches the modules of builders, so that they can open URLs, which imports SciPy. It
# leaves those alone that are patched already, and ours open none.
_patched_for_streaming: Final = datasets.DownloadConfig()

_INPUT_HASHES: Final[dict[str, Callable[[Any], str]]] = {"task": task_sha256, "cache": cache_sha256}


@dataclass
class DeliaConfig(datasets.BuilderConfig):  # type: ignore[misc]
    """Settings of a builder; those of its own come as keyword arguments of `load_dataset`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        settings = self.settings()
        if "seed" in settings:
            self.seed = _seed(settings["seed"])
        if str(settings.get("token")).startswith("hf_"):
            raise TokenError(
                "token= is the task's special token here, and what was given looks like a Hub "
                "access token: leave it out, nothing is downloaded"
            )

    @classmethod
    def keys(cls) -> tuple[str, ...]:
        """Names of the builder's own settings."""
        shared = {field.name for field in dataclasses.fields(datasets.BuilderConfig)}
        return tuple(field.name for field in dataclasses.fields(cls) if field.name not in shared)

    def settings(self) -> dict[str, Any]:
        """The builder's own settings and their values."""
        return {key: getattr(self, key) for key in self.keys()}

    def sha256(self) -> str:
        """Hash all that the rows depend on; reads the bytes of the inputs.

        Raises:
            InputError: An input is not there or cannot be read.
        """
        content = {
            key: _INPUT_HASHES[key](value) if key in _INPUT_HASHES else repr(value)
            for key, value in self.settings().items()
        }
        return hashlib.sha256(canonical_json([__version__, content])).hexdigest()


class DeliaBuilder(datasets.ArrowBasedBuilder):  # type: ignore[misc]
    """Base of the builders: each names its own settings, columns and splits."""

    token: str | bool | None

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        vars(sys.modules[cls.__module__])["_patched_for_streaming"] = _patched_for_streaming

    def _create_builder_config(
        self,
        config_name: str | None = None,
        custom_features: datasets.Features | None = None,
        config_id: str | None = None,
        **given: Any,
    ) -> tuple[DeliaConfig, str]:
        if not given.get("data_files"):
            given.pop("data_files", None)
        known = self.BUILDER_CONFIG_CLASS.keys()
        _check_keys(self.name, given, known)
        if config_name not in (None, "default") and not self.BUILDER_CONFIGS:
            raise InputError(
                f"{self.name} has no configuration {config_name!r}: leave the name out, "
                f"and give {known[0]}="
            )
        # load_dataset takes `token` as the Hub's and keeps it from the settings. Here it is the
        # special token, and nothing is ever sent to the Hub.
        if "token" in known and isinstance(self.token, str):
            given["token"] = self.token
        self.token = None
        config: DeliaConfig = self.BUILDER_CONFIG_CLASS(name=config_name or "default", **given)
        self._sha256 = config.sha256()
        return config, config_id or config.create_config_id(
            {"sha256": self._sha256}, custom_features=custom_features
        )

    def _splits(self, parts: Mapping[str, Sequence[Part]]) -> list[datasets.SplitGenerator]:
        """Splits of inputs that were just read.

        Raises:
            InputError: An input changed since the configuration id was made of its bytes.
        """
        if self.config.sha256() != self._sha256:
            raise InputError(f"an input of {self.name} changed while it was read: load it again")
        return [
            datasets.SplitGenerator(name=name, gen_kwargs={"shards": list(of_split)})
            for name, of_split in parts.items()
        ]

    def _as_dataset(self, *arguments: Any, **named: Any) -> datasets.Dataset:
        return RowsDataset.of(super()._as_dataset(*arguments, **named))

    def _generate_tables(self, shards: list[Part]) -> Iterator[tuple[Key, pa.Table]]:
        for index, table in enumerate(tables(shards)):
            yield Key(index, 0), table


def _check_keys(builder: str, given: Mapping[str, Any], known: tuple[str, ...]) -> None:
    unknown = [key for key in given if key not in known]
    if not unknown:
        return
    candidates = [*known, *inspect.signature(datasets.load_dataset).parameters]
    nearest = {key: difflib.get_close_matches(key, candidates, n=1) for key in unknown}
    named = [f"{k!r}" + (f" (did you mean {n[0]!r}?)" if n else "") for k, n in nearest.items()]
    raise SettingsError(f"{builder} does not know {', '.join(named)}: it takes {', '.join(known)}")


def _seed(value: Any) -> int:
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise InputError(f"seed {value!r} is not a whole number: give one such as 0")
