"""The names of `load_dataset` in processes that never import this package: `delia register`.

Two files in the environment's `site-packages` make every Python process register the names when
it imports `datasets`, and do nothing until then:

    delia_data_register.pth    one line, which Python runs at its start
    _delia_data_register.py    waits for `datasets`; imports nothing else
"""

from __future__ import annotations

import os
import site
import sysconfig
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Final

from delia_data.errors import OutputError
from delia_data.outputs import write_text

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


def install() -> Path:
    """Write the files into the current environment, and return the `.pth` file.

    Raises:
        OutputError: The environment cannot be written.
    """
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
    """Remove the files from the current environment, and return the `.pth` files among them.

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
    """Yield the `.pth` files in the current environment."""
    folders = [sysconfig.get_path("purelib")]
    if site.ENABLE_USER_SITE:
        folders.append(site.getusersitepackages())
    return (path for folder in folders if (path := Path(folder) / _PTH).is_file())
