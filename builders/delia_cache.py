"""`load_dataset("delia_cache", cache="my-cache")`: the pairs that the model itself wrote."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import datasets
import pyarrow as pa

from delia_data.builders._common import DeliaBuilder, DeliaConfig
from delia_data.builders._inputs import Location, read_pairs
from delia_data.builders._parts import TablePart
from delia_data.mixing import schema
from delia_data.records import write_record

__all__ = ["DeliaCache", "DeliaCacheConfig"]

_SCHEMA: Final = pa.schema([schema("messages").field(name) for name in ("messages", "source_id")])


@dataclass
class DeliaCacheConfig(DeliaConfig):
    """Settings of a cache.

    Attributes:
        cache: A cache folder, or a JSON Lines or JSON file of pairs in any row format; None for
            the bundled one.
    """

    cache: Location | None = None


class DeliaCache(DeliaBuilder):
    """Builder of a cache: `train`, with every pair in the order in which it stands there."""

    BUILDER_CONFIG_CLASS = DeliaCacheConfig

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=datasets.Features.from_arrow_schema(_SCHEMA))

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        pairs = read_pairs(self.config.cache)
        rows = [{**write_record(pair), "source_id": pair.id} for pair in pairs]
        return self._splits({"train": TablePart.cut(pa.Table.from_pylist(rows, schema=_SCHEMA))})
