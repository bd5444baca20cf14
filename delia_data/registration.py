"""Register the builders with `datasets`, so that `load_dataset("delia_mix", ...)` works.

`datasets` 5.2 has no public way to add a builder. This file replaces:

    datasets.packaged_modules._PACKAGED_DATASETS_MODULES    contains our names
    datasets.load.PackagedDatasetModuleFactory.get_module   finds no files in the working folder
    datasets.load.increase_load_count                       sends no HEAD request
    datasets.load.dataset_module_factory                    passes `revision=` to the builder
    datasets.inspect.dataset_module_factory                 refuses `revision=`

Other names are not affected. A registered name takes precedence over a folder, as `"json"` does:
`load_dataset("./delia_mix")` loads the folder. The exception is a folder that `save_to_disk` wrote,
for which `load_dataset` says to use `load_from_disk`.

`delia register` covers processes that never import this package. Two files in the environment's
`site-packages` make every Python process register the names when it imports `datasets`, and do
nothing until then:

    delia_data_register.pth    one line, which Python runs at its start
    _delia_data_register.py    waits for `datasets`; imports nothing else
"""

from __future__ import annotations

import functools
import hashlib
import os
import site
import sysconfig
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from delia_data._version import __version__
from delia_data.errors import InputError, OutputError

NAMES: Final = ("delia_mix", "delia_cache", "delia_task")

_REVISED: Final = "delia_mix"
_MARK: Final = "_registers_delia_data"
_CODE: Final = hashlib.sha256(f"delia_data {__version__}".encode()).hexdigest()

_PTH: Final = "delia_data_register.pth"
_MODULE: Final = "_delia_data_register.py"
# An `import` that fails would print a traceback at every start of Python.
_LINE: Final = "import sys; exec('try: import {}\\nexcept ImportError: pass')\n"
_HOOK: Final = """

def _register() -> None:
    try:
        from delia_data.registration import register
    except ImportError:  # delia_data was removed from the environment
        return
    register()


after_import("datasets", _register)
"""


def register() -> None:
    """Register the names in this process; `import delia_data` calls it. Idempotent."""
    for name in NAMES:
        _registry()[name] = (f"delia_data.builders.{name}", _CODE)
    for owner, function, around in _replaced():
        _wrap(owner, function, around)


def is_registered() -> bool:
    """Return whether the names are registered in this process."""
    return all(name in _registry() for name in NAMES) and all(
        hasattr(getattr(owner, function), _MARK) for owner, function, _ in _replaced()
    )


def install() -> Path:
    """Write the files of `delia register` into the current environment, and return the `.pth` file.

    Raises:
        OutputError: The environment cannot be written.
    """
    # Not at the top of the file: every program that imports `datasets` would wait for pydantic.
    from delia_data.outputs import write_text

    folder = Path(sysconfig.get_path("purelib"))
    if not os.access(folder, os.W_OK) and site.ENABLE_USER_SITE:
        folder = Path(site.getusersitepackages())
    source = (files("delia_data") / "_after_import.py").read_text("utf-8")
    try:
        write_text(folder / _MODULE, source + _HOOK)
        write_text(folder / _PTH, _LINE.format(_MODULE.removesuffix(".py")))
    except OutputError as error:
        raise OutputError(f"{error}: register in a virtual environment of your own") from error
    return folder / _PTH


def remove() -> list[Path]:
    """Remove the files of `delia register`, and return the `.pth` files among them.

    Raises:
        OutputError: The environment cannot be written.
    """
    removed = list(installed())
    for pth in removed:
        try:
            pth.unlink()
            pth.with_name(_MODULE).unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{pth} cannot be removed: {error.strerror}") from error
    return removed


def installed() -> Iterator[Path]:
    """Yield the `.pth` files of `delia register` in the current environment."""
    folders = [sysconfig.get_path("purelib")]
    if site.ENABLE_USER_SITE:
        folders.append(site.getusersitepackages())
    return (path for folder in folders if (path := Path(folder) / _PTH).is_file())


def _registry() -> dict[str, tuple[str, str]]:
    """Return the module path and code hash of each packaged builder, by name."""
    import datasets.packaged_modules

    modules: dict[str, tuple[str, str]] = datasets.packaged_modules._PACKAGED_DATASETS_MODULES
    return modules


def _wrap(owner: Any, function: str, around: Callable[..., Any]) -> None:
    """Replace a function, once, by `around`, which takes the original as its first argument."""
    original = getattr(owner, function)
    if hasattr(original, _MARK):
        return

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return around(original, *args, **kwargs)

    setattr(wrapper, _MARK, True)
    setattr(owner, function, wrapper)


def _get_module(original: Callable[..., Any], factory: Any) -> Any:
    """Return the module of one of our builders, without data files of the working folder."""
    from datasets.data_files import DataFilesDict
    from datasets.load import DatasetModule

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
    # load_dataset refuses None.
    arguments = {"data_files": DataFilesDict(), "dataset_name": factory.name}
    return DatasetModule(module_path, code, arguments)


def _increase_load_count(original: Callable[..., Any], name: str) -> Any:
    """Count no downloads of our builders: counting sends a request."""
    return None if name in NAMES else original(name)


def _module_to_load(
    original: Callable[..., Any], path: str, revision: Any = None, *args: Any, **kwargs: Any
) -> Any:
    """Pass a revision to the builder of mixtures, for mixtures published on the Hub."""
    if revision is None or path.removeprefix("hf://datasets/") != _REVISED:
        return _module_to_inspect(original, path, revision, *args, **kwargs)
    module = original(path, None, *args, **kwargs)
    module.builder_kwargs["revision"] = revision
    return module


def _module_to_inspect(
    original: Callable[..., Any], path: str, revision: Any = None, *args: Any, **kwargs: Any
) -> Any:
    """Refuse a revision, which packaged builders silently ignore."""
    if revision is not None and path.removeprefix("hf://datasets/") in NAMES:
        raise InputError(
            f"{path} has no revisions ({revision!r} was given): leave revision= out; "
            "its rows depend only on its inputs and the installed version of delia_data"
        )
    return original(path, revision, *args, **kwargs)


def _replaced() -> list[tuple[Any, str, Callable[..., Any]]]:
    """Return the functions of `datasets` to replace: owner, name, and our function."""
    # Not at the top of the file: importing datasets calls `register`.
    import datasets.inspect
    import datasets.load

    return [
        (datasets.load.PackagedDatasetModuleFactory, "get_module", _get_module),
        (datasets.load, "increase_load_count", _increase_load_count),
        (datasets.load, "dataset_module_factory", _module_to_load),
        (datasets.inspect, "dataset_module_factory", _module_to_inspect),
    ]
