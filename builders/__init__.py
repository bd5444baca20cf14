"""Builders for `load_dataset`: `delia_mix`, `delia_cache` and `delia_task`.

    import delia_data                       # registers the names
    from datasets import load_dataset

    load_dataset("delia_mix", ratio=4, cache="my-cache")
    load_dataset("delia_cache", cache="my-cache")
    load_dataset("delia_task")

Each module has a configuration and a builder, with the methods of the packaged builders of
`datasets`: `_info`, `_split_generators`, `_generate_tables`.
"""

from __future__ import annotations

__all__: list[str] = []
