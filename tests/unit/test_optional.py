"""An optional library that is missing is named with the extra that brings it."""

import sys
from pathlib import Path

import pytest

from delia_data._optional import require
from delia_data.errors import DeliaError, MissingExtraError


def test_what_is_installed_is_imported() -> None:
    assert require("json.decoder", extra="train") is sys.modules["json.decoder"]


@pytest.mark.parametrize("module", ["no_such_library", "no_such_library.part"])
def test_what_is_missing_is_named_with_its_extra(module: str) -> None:
    with pytest.raises(MissingExtraError) as caught:
        require(module, extra="vllm")
    assert str(caught.value) == (
        "no_such_library is not installed, and this step needs it: "
        'run pip install "delia_data[vllm]"'
    )
    assert isinstance(caught.value, DeliaError)
    assert isinstance(caught.value, ImportError)


def test_what_the_library_itself_misses_is_not_blamed_on_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "half_installed.py").write_text("import no_such_library\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_library") as caught:
        require("half_installed", extra="vllm")
    assert not isinstance(caught.value, DeliaError)
