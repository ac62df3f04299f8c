"""What stands for a value that this process cannot rebuild: it shows the data, and is written again as it was."""

from __future__ import annotations

import dataclasses
from typing import Any

from durable_graph.codec.kind import Parts
from durable_graph.codec.plain import PLAIN


@dataclasses.dataclass(frozen=True, slots=True)
class Unregistered:
    """Stands for a value whose type this application has not registered, or whose type no longer fits it."""

    __module__ = "durable_graph.codec"  # as errors call it

    name: str  # the name its type was registered with
    data: Any  # its fields, or what stood for it
    tag: str = dataclasses.field(default="custom", repr=False)
    more: Parts = dataclasses.field(default_factory=dict, repr=False)  # the further keys of the tag

    def __hash__(self) -> int:  # it may be a key: data need not be hashable, but its plain items are
        data = self.data
        items = data.items() if type(data) is dict else enumerate(data if type(data) is tuple else (data,))
        return hash((self.name, frozenset(item for item in items if type(item[1]) in PLAIN)))
