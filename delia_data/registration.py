"""Makes `load_dataset("delia_mix", ...)` work: our builders under names that `datasets` knows.

`datasets` 5.2 has no public way to add a builder, so this file, and no other, reaches into it:

    datasets.packaged_modules._PACKAGED_DATASETS_MODULES    our names are put in
    datasets.load.PackagedDatasetModuleFactory.get_module   no data files from the working folder
    datasets.load.increase_load_count                       no HEAD request
    datasets.load.dataset_module_factory                    `revision=` goes to the builder
    datasets.inspect.dataset_module_factory                 `revision=` is refused

What is asked for under any other name goes through unchanged. (The builders themselves override
`DatasetBuilder._create_builder_config`, which the test that watches these names watches too, and
`_as_dataset`, and say `_patched_for_streaming`, which `tests/unit/test_rows.py` watches.)

A registered name comes before a folder, as `"json"` does: where the working folder holds a folder
`delia_mix`, `load_dataset("delia_mix")` is still the builder, and `load_dataset("./delia_mix")` is
the folder. Only a folder that `save_to_disk` wrote is seen first: `load_dataset` then says to use
`load_from_disk`.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from typing import Any, Final

import datasets.inspect
import datasets.load
import datasets.packaged_modules
from datasets.data_files import DataFilesDict

from delia_data._version import __version__
from delia_data.errors import InputError

NAMES: Final = ("delia_mix", "delia_cache", "delia_task")

_REVISED: Final = "delia_mix"
_MARK: Final = "_registers_delia_data"
_CODE: Final = hashlib.sha256(f"delia_data {__version__}".encode()).hexdigest()


def register() -> None:
    """Make `datasets` know our names, in this process; `import delia_data` calls it.

    Calling it again changes nothing.
    """
    for name in NAMES:
        _registry()[name] = (f"delia_data.builders.{name}", _CODE)
    for owner, function, around in _WRAPPED:
        _wrap(owner, function, around)


def is_registered() -> bool:
    """Tell whether `datasets` knows our names."""
    return all(name in _registry() for name in NAMES) and all(
        hasattr(getattr(owner, function), _MARK) for owner, function, _ in _WRAPPED
    )


def _registry() -> dict[str, tuple[str, str]]:
    """Module path and code hash of every packaged builder, by name."""
    modules: dict[str, tuple[str, str]] = datasets.packaged_modules._PACKAGED_DATASETS_MODULES
    return modules


def _wrap(owner: Any, function: str, around: Callable[..., Any]) -> None:
    """Put `around` in front of a function, once; it gets the function as its first argument."""
    original = getattr(owner, function)
    if hasattr(original, _MARK):
        return

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return around(original, *args, **kwargs)

    setattr(wrapper, _MARK, True)
    setattr(owner, function, wrapper)


def _get_module(original: Callable[..., Any], factory: Any) -> Any:
    """The module of one of our builders: with no data files, whatever lies around."""
    if factory.name not in NAMES:
        return original(factory)
    for argument in ("data_files", "data_dir"):
        given = getattr(factory, argument)
        if given is not None:
            raise InputError(
                f"{factory.name} does not take {argument}= ({given!r} was given): "
                "give its inputs as task= or cache="
            )
    module_path, code = _registry()[factory.name]
    # With None for data files load_dataset would ask for some.
    arguments = {"data_files": DataFilesDict(), "dataset_name": factory.name}
    return datasets.load.DatasetModule(module_path, code, arguments)


def _increase_load_count(original: Callable[..., Any], name: str) -> Any:
    """Count no download of ours: nothing is downloaded, and counting asks the network."""
    return None if name in NAMES else original(name)


def _module_to_load(
    original: Callable[..., Any], path: str, revision: Any = None, *args: Any, **kwargs: Any
) -> Any:
    """Hand a revision to the builder of mixtures, which may be of a published repository."""
    if revision is None or path.removeprefix("hf://datasets/") != _REVISED:
        return _module_to_inspect(original, path, revision, *args, **kwargs)
    module = original(path, None, *args, **kwargs)
    module.builder_kwargs["revision"] = revision
    return module


def _module_to_inspect(
    original: Callable[..., Any], path: str, revision: Any = None, *args: Any, **kwargs: Any
) -> Any:
    """Refuse a revision, which packaged builders ignore in silence."""
    if revision is not None and path.removeprefix("hf://datasets/") in NAMES:
        raise InputError(
            f"{path} has no revisions ({revision!r} was given): leave revision= out; "
            "what it gives follows from its inputs and the installed version of delia_data"
        )
    return original(path, revision, *args, **kwargs)


_WRAPPED: Final[tuple[tuple[Any, str, Callable[..., Any]], ...]] = (
    (datasets.load.PackagedDatasetModuleFactory, "get_module", _get_module),
    (datasets.load, "increase_load_count", _increase_load_count),
    (datasets.load, "dataset_module_factory", _module_to_load),
    (datasets.inspect, "dataset_module_factory", _module_to_inspect),
)
