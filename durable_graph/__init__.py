"""Graphs of plain functions whose every step is a committed row before anyone sees it."""

from durable_graph.compiled import CompiledGraph
from durable_graph.core.channels import Overwrite
from durable_graph.core.model import (
    END,
    START,
    Command,
    PregelTask,
    Send,
    StateSnapshot,
    StreamEvent,
    StreamMode,
)
from durable_graph.core.runtime import Runtime, StreamWriter, get_config, get_runtime, get_stream_writer
from durable_graph.core.verify import Finding, Report
from durable_graph.errors import (
    ArgumentError,
    CallError,
    ChangedGraphError,
    CheckpointNotFoundError,
    CorruptCheckpointError,
    DrawingError,
    DurableGraphError,
    EmptyInputError,
    FencedError,
    GraphRecursionError,
    InvalidUpdateError,
    NodeCodeError,
    RoutingError,
    SchemaError,
    StoreError,
    StoreUnavailableError,
    ThreadBusyError,
    ThreadExistsError,
    ThreadNotFoundError,
    UnstorableValueError,
)
from durable_graph.graph import StateGraph
from durable_graph.log import Log
from durable_graph.store import Thread

__version__ = "0.1.0"

__all__ = [
    "END",
    "START",
    "ArgumentError",
    "CallError",
    "ChangedGraphError",
    "CheckpointNotFoundError",
    "Command",
    "CompiledGraph",
    "CorruptCheckpointError",
    "DrawingError",
    "DurableGraphError",
    "EmptyInputError",
    "FencedError",
    "Finding",
    "GraphRecursionError",
    "InvalidUpdateError",
    "Log",
    "NodeCodeError",
    "Overwrite",
    "PregelTask",
    "Report",
    "RoutingError",
    "Runtime",
    "SchemaError",
    "Send",
    "StateGraph",
    "StateSnapshot",
    "StoreError",
    "StoreUnavailableError",
    "StreamEvent",
    "StreamMode",
    "StreamWriter",
    "Thread",
    "ThreadBusyError",
    "ThreadExistsError",
    "ThreadNotFoundError",
    "UnstorableValueError",
    "get_config",
    "get_runtime",
    "get_stream_writer",
]
