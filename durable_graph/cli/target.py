"""MODULE:GRAPH: from what is typed to a graph that runs."""

from __future__ import annotations

import importlib
import operator
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from durable_graph import CompiledGraph, StateGraph
from durable_graph.cli.ending import Failure, one_line


def load_graph(target: str, url: str | None) -> tuple[CompiledGraph[Any], bool]:
    """The graph, compiled with the URL if it is a drawing; and whether it has async functions."""
    module, attribute, found = _load(target)
    if isinstance(found, StateGraph):
        graph = found.compile(url, name=f"{module.__name__}:{attribute}")
        return graph, graph.is_async
    if not isinstance(found, CompiledGraph):
        raise Failure(2, f"{target} is a {type(found).__name__} and no graph; {_graphs_of(module)}")
    if url is not None:
        raise Failure(2, f"{target} is compiled already, with a database of its own: leave out --url")
    return found, found.is_async


def load_named(target: str) -> Any:
    """Anything in a module."""
    return _load(target)[2]


def _load(target: str) -> tuple[ModuleType, str, Any]:
    name, _, attribute = target.rpartition(":")
    if not name or not attribute:
        raise Failure(2, f"{target!r} names no graph: write MODULE:GRAPH, as in app:graph or folder/app.py:graph")
    module = load_module(name)
    try:
        return module, attribute, operator.attrgetter(attribute)(module)
    except AttributeError:
        raise Failure(2, f"{name} has no {attribute!r}; {_graphs_of(module)}") from None


def _graphs_of(module: ModuleType) -> str:
    names = [name for name, item in vars(module).items() if isinstance(item, StateGraph | CompiledGraph)]
    return f"its graphs are: {', '.join(names)}" if names else "it has no graphs"


def load_module(name: str) -> ModuleType:
    """Import a module, or a .py file, as Python does when it is started there."""
    file = Path(name).resolve() if name.endswith(".py") else None
    if file is not None and not file.is_file():
        raise Failure(2, f"there is no file {name}")
    sys.path.insert(0, str(file.parent if file else Path.cwd()))
    module_name = file.stem if file else name
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{module_name}.".startswith(f"{missing}."):
            raise Failure(2, f"there is no module {missing}; for a file write its path: folder/app.py") from error
        raise Failure(2, f"importing {name} failed: {one_line(error)}") from error
    if file and Path(module.__file__ or "").resolve() != file:
        raise Failure(2, f"another module has the name of {name}, {module.__file__ or module}: rename the file")
    return module
