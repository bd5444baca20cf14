"""Import optional libraries; one error message names the extra to install."""

from __future__ import annotations

import logging
from importlib import import_module
from typing import Any

from delia_data.errors import MissingExtraError


def require(module: str, *, extra: str) -> Any:
    """Import an optional library.

    Args:
        module: Dotted name of the module, for example `"trl"`.
        extra: The extra of this package that installs the library.

    Returns:
        The imported module.

    Raises:
        MissingExtraError: The library is not installed. The message names the extra.
    """
    # peft imports bitsandbytes if installed, which warns on some CPUs about a missing kernel.
    log = logging.getLogger("bitsandbytes")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise MissingExtraError(
            f"{module.split('.')[0]} is not installed, and this step needs it: "
            f'run pip install "delia_data[{extra}]"'
        ) from error
    finally:
        log.setLevel(level)
