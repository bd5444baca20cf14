"""A full memory or disk, and unknown trackers, are one line while a model trains."""

from __future__ import annotations

import errno

import pytest

from delia_data.errors import (
    DeliaError,
    EngineError,
    InputError,
    MissingExtraError,
    OutputError,
    TokenError,
)
from delia_data.training.loading import training_errors


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (RuntimeError("CUDA out of memory. Tried 2 GiB.\nSee"), EngineError, "lower max_length"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), EngineError, "lower max_leng"),
        (MemoryError(), EngineError, "out of memory: lower max_length"),
        (OSError(errno.ENOSPC, "No space left"), OutputError, "out cannot be written .*free some"),
        (RuntimeError("PytorchStreamWriter failed\nat"), OutputError, "rerun the same command"),
        (ValueError("x is not supported, only tensorboard"), InputError, "report_to: x is not"),
        (RuntimeError("X requires wandb: pip install wandb"), MissingExtraError, "report_to: X"),
        (TokenError("as it is"), TokenError, "^as it is$"),
        (ValueError("an internal error"), ValueError, "^an internal error$"),
    ],
)
def test_one_line_that_names_the_next_step(
    error: Exception, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught, training_errors("out", lower="max_length"):
        raise error
    assert isinstance(caught.value, DeliaError | ValueError)
    assert "\n" not in str(caught.value)
