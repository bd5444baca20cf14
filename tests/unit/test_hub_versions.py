"""Versions of a publication."""

from __future__ import annotations

import pytest

from delia_data.errors import VersionError
from delia_data.hub import Version


def test_versions_are_ordered_by_number() -> None:
    assert Version.parse("v1.10.0") > Version.parse("1.9.7") > Version(1, 9, 0)
    assert Version.parse("1.9.7").next == Version(1, 10, 0)
    assert Version(1, 2, 0).tag == "v1.2.0"


@pytest.mark.parametrize("text", ["1.2", "01.2.3", "1.2.3-rc1", "latest", "", "v"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(VersionError, match="is not a version"):
        Version.parse(text)
