"""What the shell offers for the values of options."""

from __future__ import annotations

from collections.abc import Callable, Iterable


def among(names: Iterable[str]) -> Callable[[str], list[str]]:
    """Offer some names; other values stay possible, and files are offered where no name fits.

    Args:
        names: The names, in the order in which they are offered.

    Returns:
        What Typer takes as `autocompletion=`.
    """
    known = list(names)

    def complete(incomplete: str) -> list[str]:
        return [name for name in known if name.startswith(incomplete)]

    return complete
