"""The errors that this package raises on purpose.

Every one of them carries a single line that says what was given, why it fails and what to
do. The command line prints that line and exits with code 2.

    DeliaError (Exception)
    ├── InputError (ValueError)           what was given cannot be used
    │   ├── FormatError                   a file or a row is not in a known format
    │   │   └── UnsupportedRowError       the row means more than its text says
    │   ├── RatioError                    the ratio is wrong, or the cache is too small for it
    │   ├── TokenError                    the special token cannot do its work
    │   ├── SettingsError                 settings are unknown or differ from the earlier run's
    │   ├── VersionError                  a version is wrong, taken, or too small a step
    │   └── SecretError                   what is to be published holds what looks like a secret
    ├── OutputError (OSError)             a file or folder cannot be read or written
    │   ├── ForeignFolderError            the folder holds something else
    │   ├── HubError                      the Hub refused, or could not be reached
    │   ├── UnfinishedError               the folder has no finish marker
    │   └── LockedError                   another process writes there
    ├── EngineError (RuntimeError)        an engine failed
    └── MissingExtraError (ImportError)   an optional library is not installed
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class DeliaError(Exception):
    """Base of every error that this package raises on purpose."""


class InputError(DeliaError, ValueError):
    """What was given cannot be used."""


class FormatError(InputError):
    """A file or a row is not in a known format."""


class UnsupportedRowError(FormatError):
    """The row means more than its text says: it has tools, images, a negative label.

    Attributes:
        reason: The reason under which such rows are counted when they are dropped.
    """

    def __init__(self, message: str, reason: str = "unsupported") -> None:
        """Keep the message and the drop reason."""
        super().__init__(message)
        self.reason = reason


class RatioError(InputError):
    """The ratio is not a number of at least 0, or the cache is too small for it."""


class TokenError(InputError):
    """The special token cannot do its work."""


class SettingsError(InputError):
    """Settings are unknown, or differ from those of the run that is to go on."""


class VersionError(InputError):
    """A version is no version, is taken by other content, or is too small a step."""


class SecretError(InputError):
    """What is to be published holds what looks like a secret or an e-mail address."""


class OutputError(DeliaError, OSError):
    """A file or folder cannot be read or written."""


class ForeignFolderError(OutputError):
    """The output folder holds something that was not made by this command."""


class HubError(OutputError):
    """The Hub refused, or could not be reached; what lies there is as it was."""


class UnfinishedError(OutputError):
    """The folder has no finish marker: it was never completed, or was changed since."""


class LockedError(OutputError):
    """Another process is writing to the same folder."""


class EngineError(DeliaError, RuntimeError):
    """An engine failed to load or to generate."""


class MissingExtraError(DeliaError, ImportError):
    """An optional library is not installed."""


def printable(name: object) -> str:
    """Return a name of the user's for an error, which is one line: escaped if it would not be."""
    text = str(name)
    return text if text.isprintable() else ascii(text)


def unknown_name(kind: str, name: Any, known: Iterable[str]) -> str:
    """Return "unknown KIND NAME", with the nearest known name."""
    import difflib

    near = [each for each in difflib.get_close_matches(str(name), list(known), n=1) if each != name]
    return f"unknown {kind} {name!r}" + (f", did you mean {near[0]!r}?" if near else "")
