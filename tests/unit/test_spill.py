"""Temporary folders go with what made them, a killed process's with the next one."""

import gc
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from delia_data.mixing.engine import Spill


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def folders(root: Path) -> list[Path]:
    return sorted(root.glob("delia-mix-*"))


def test_a_folder_goes_when_it_is_removed_or_forgotten(temporary: Path) -> None:
    one, other = Spill(), Spill()
    assert folders(temporary) == sorted([one.path, other.path])
    one.remove()
    assert folders(temporary) == [other.path]
    del other
    gc.collect()
    assert folders(temporary) == []


def test_another_process_knows_the_folder_and_leaves_it(temporary: Path) -> None:
    spill = Spill()
    copy = pickle.loads(pickle.dumps(spill))
    assert copy.path == spill.path
    del copy
    gc.collect()
    assert folders(temporary) == [spill.path]


def test_what_a_killed_process_left_goes_and_what_a_living_one_has_stays(temporary: Path) -> None:
    script = (
        "from delia_data.mixing.engine import Spill\n"
        "spill = Spill()\n"
        "(spill.path / 'rows').write_text('many')\n"
        "print(spill.path, flush=True)\n"
        "input()"
    )
    left = []
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
    ) as process:
        assert process.stdout is not None
        left.append(Path(process.stdout.readline().strip()))
        mine = Spill()
        assert folders(temporary) == sorted([mine.path, *left])
        process.send_signal(signal.SIGKILL)
    assert folders(temporary) == sorted([mine.path, *left])
    (temporary / "delia-mix-other").mkdir()  # whatever has no lock is somebody else's
    third = Spill()
    assert folders(temporary) == sorted([mine.path, third.path, temporary / "delia-mix-other"])
