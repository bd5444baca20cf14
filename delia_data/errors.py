"""Errors of this package.

The message of each is a single line with the input, the reason of the failure, and the next step.
The command line prints that line and exits with code 2.

    DeliaError (Exception)
    ├── InputError (ValueError)           the input cannot be used
    │   ├── FormatError                   a file or a row is not in a known format
    │   │   └── UnsupportedRowError       the row is more than its text
    │   ├── RatioError                    the ratio is wrong, or the cache is too small for it
    │   ├── TokenError                    the special token cannot be used
    │   ├── SettingsError                 settings are unknown or differ from the earlier run's
    │   ├── VersionError                  a version is wrong, exists, or increases too little
    │   └── SecretError                   the content to publish may contain a secret
    ├── OutputError (OSError)             a file or folder cannot be read or written
    │   ├── ForeignFolderError            the folder contains something else
    │   ├── HubError                      the Hub refused a request or was not reached
    │   ├── UnfinishedError               the folder has no finish marker
    │   └── LockedError                   another process writes into the folder
    ├── EngineError (RuntimeError)        an engine failed
    └── MissingExtraError (ImportError)   an optional library is not installed
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class DeliaError(Exception):
    """Base of the errors of this package."""


class InputError(DeliaError, ValueError):
    """The input cannot be used."""


class FormatError(InputError):
    """A file or a row is not in a known format."""


class UnsupportedRowError(FormatError):
    """The row is more than its text: it has tools, images or a negative label.

    Attributes:
        reason: Reason under which such rows are counted when they are dropped.
    """

    def __init__(self, message: str, reason: str = "unsupported") -> None:
        """Set the message and the reason."""
        super().__init__(message)
        self.reason = reason


class RatioError(InputError):
    """The ratio is not a number of at least 0, or the cache is too small for it."""


class TokenError(InputError):
    """The special token cannot be used."""


class SettingsError(InputError):
    """Settings are unknown, or differ from those of the run to resume."""


class VersionError(InputError):
    """A version is malformed, exists with other content, or increases too little."""


class SecretError(InputError):
    """The content to publish may contain a secret or an e-mail address."""


class OutputError(DeliaError, OSError):
    """A file or folder cannot be read or written."""


class ForeignFolderError(OutputError):
    """The output folder contains something that this command did not write."""


class HubError(OutputError):
    """The Hub refused a request or could not be reached; the repository has not changed."""


class UnfinishedError(OutputError):
    """The folder has no valid finish marker: it is incomplete, or was changed afterwards."""


class LockedError(OutputError):
    """Another process writes into the folder."""


class EngineError(DeliaError, RuntimeError):
    """An engine failed to load or to generate."""


class MissingExtraError(DeliaError, ImportError):
    """An optional library is not installed."""


def printable(name: object) -> str:
    """Return a user's name for a one-line message, escaped if it has more than one line."""
    text = str(name)
    return text if text.isprintable() else ascii(text)


def unknown_name(kind: str, name: Any, known: Iterable[str]) -> str:
    """Return "unknown KIND NAME", with the nearest known name."""
    import difflib

    near = [each for each in difflib.get_close_matches(str(name), list(known), n=1) if each != name]
    return f"unknown {kind} {name!r}" + (f", did you mean {near[0]!r}?" if near else "")
