"""Where each of several processes of a training puts its model."""

from __future__ import annotations

import pytest

from delia_data.training.loading import own_device

LAUNCHED = {"WORLD_SIZE": "4", "RANK": "2", "LOCAL_RANK": "1"}


@pytest.mark.parametrize(
    ("environment", "device", "own"),
    [
        ({}, "cuda", "cuda"),
        ({}, "cpu", "cpu"),
        (LAUNCHED, "cuda", "cuda:1"),
        (LAUNCHED, "cpu", "cpu"),
        ({**LAUNCHED, "ACCELERATE_USE_FSDP": "true"}, "cuda", "cpu"),
        ({"ACCELERATE_USE_FSDP": "true"}, "cuda", "cuda"),
    ],
    ids=["one", "one on a CPU", "a GPU each", "CPUs", "sharded", "one to shard"],
)
def test_each_process_has_a_device_of_its_own(
    environment: dict[str, str], device: str, own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "ACCELERATE_USE_FSDP"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert own_device(device) == own
