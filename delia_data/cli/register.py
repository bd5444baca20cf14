"""`delia register`: the names of `load_dataset` in every process of the environment."""

from __future__ import annotations

from delia_data import registration
from delia_data.cli._flags import option
from delia_data.cli._output import AsJson, say, show_json


def command(
    remove: bool = option(False, "Undo it.", names=["--remove"]),
    as_json: AsJson = False,
) -> None:
    """Make load_dataset("delia_mix", ...) work in programs that do not import delia_data.

    Writes two small files into the current environment, for programs such as trl sft:

        trl sft --dataset_name delia_mix --dataset_config ratio-260 ...
    """
    files = registration.remove() if remove else [registration.install()]
    if as_json:
        show_json({"registered": not remove, "files": [str(file) for file in files]})
        return
    done = "removed" if remove else "written"
    say("\n".join(f"{file}: {done}" for file in files) or "not registered: nothing to remove")
