"""The command `delia`: one file a command."""

from __future__ import annotations

from delia_data.cli.app import app, main

__all__ = ["app", "main"]
