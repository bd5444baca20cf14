"""Call a function right after a library is imported, without importing it.

`delia register` copies this file into the environment, and every Python process runs it at startup,
so it imports only `sys`. (wrapt's `register_post_import_hook` does the same, at three
times the start-up time of Python.)
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType


def after_import(name: str, action: Callable[[], None]) -> None:
    """Call a function once a library is imported: now, if it is already.

    Args:
        name: Name of the library, such as `datasets`.
        action: Function to call once. An error in it is raised by the import.
    """
    if name in sys.modules:
        action()
    else:
        sys.meta_path.insert(0, _Finder(name, action))


class _Finder:
    """Finds one library as the other finders do, and makes its loader call a function."""

    def __init__(self, name: str, action: Callable[[], None]) -> None:
        self.name = name
        self.action = action

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.name or self not in sys.meta_path:
            return None
        for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:
            if spec := finder.find_spec(fullname, path, target):
                self._wrap(spec)
                return spec
        return None

    def _wrap(self, spec: ModuleSpec) -> None:
        """Replace `exec_module` of the loader until it has run."""
        loader = spec.loader
        execute = getattr(loader, "exec_module", None)
        if loader is None or execute is None:
            return

        def exec_module(module: ModuleType) -> None:
            execute(module)
            if module.__name__ == self.name and self in sys.meta_path:
                vars(loader).pop("exec_module", None)  # gone if there was another such finder
                sys.meta_path.remove(self)
                self.action()

        loader.exec_module = exec_module  # type: ignore[method-assign]
