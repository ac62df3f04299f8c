"""Drawing a graph: nodes, edges, and `compile()`, which checks the drawing and freezes it."""

from __future__ import annotations

import hashlib
import inspect
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Generic, Literal, Self, TypeVar, Union, get_args, get_origin, get_type_hints

from durable_graph.codec import Codec, Storable, storable_types, without_doubles
from durable_graph.compiled import CompiledGraph
from durable_graph.core.address import RESERVED
from durable_graph.core.chain import Key
from durable_graph.core.channels import Channel, name_of
from durable_graph.core.model import (
    END,
    RECORDED,
    START,
    Branch,
    CachePolicy,
    Command,
    Graph,
    Join,
    Node,
    RetryPolicy,
    TimeoutPolicy,
    join_name,
    policy_of,
)
from durable_graph.core.position import DEFAULT_HANDLER, HANDLER
from durable_graph.core.schema import Schema, field_checks, is_coroutine, read_schema, wanted_arguments
from durable_graph.encryption import EncryptionKey
from durable_graph.errors import DrawingError
from durable_graph.executors import Making, Pool, check
from durable_graph.limits import Limits
from durable_graph.messages import decided, message_types
from durable_graph.opening import NO_STORE, inherited, open_cache, open_encryption, open_store, refuse
from durable_graph.session import Subgraph
from durable_graph.store import Cache, Store

StateT = TypeVar("StateT")
PathMap = Mapping[Hashable, str] | Sequence[str]


class StateGraph(Generic[StateT]):
    """A graph of functions over a shared state, as in LangGraph.

    `state_schema` is a TypedDict, a dataclass or a pydantic model. Each of its fields is a channel; a field annotated
    `Annotated[type, reducer]` combines writes with that reducer, any other keeps the last one. Drawing
    changes nothing but this object and needs no database.
    """

    def __init__(
        self,
        state_schema: type[StateT],
        context_schema: type[Any] | None = None,
        *,
        input_schema: type[Any] | None = None,
        output_schema: type[Any] | None = None,
    ) -> None:
        self.state_schema = state_schema
        self.context_schema = context_schema
        self.input_schema = input_schema or state_schema
        self.output_schema = output_schema or state_schema
        self.nodes: dict[str, Node] = {}
        self.edges: set[tuple[str, str]] = set()
        self.waiting_edges: set[tuple[tuple[str, ...], str]] = set()
        self.branches: defaultdict[str, dict[str, Branch]] = defaultdict(dict)
        self.channels: dict[str, Channel] = {}
        self._schemas: dict[Any, Schema] = {}
        self._subgraphs: dict[str, CompiledGraph[Any]] = {}
        self._defaults = _Defaults()
        self._schema(state_schema)
        for schema in (self.input_schema, self.output_schema):
            if self._schema(schema).managed and schema is not state_schema:
                raise DrawingError(
                    problem=f"{schema.__qualname__} has {', '.join(self._schemas[schema].managed)}, which is given to "
                    "nodes and is no input or output",
                    fix="Keep RemainingSteps and IsLastStep in the state's schema or a node's input_schema.",
                )

    def _schema(self, schema: Any) -> Schema:
        """Read a schema once and take its channels over. A channel may have one reducer only."""
        if schema in self._schemas:
            return self._schemas[schema]
        read = self._schemas[schema] = read_schema(schema)
        for name, channel in read.channels.items():
            known = self.channels.get(name)
            reducers = {known.reducer if known else None, channel.reducer} - {None}
            if len(reducers) > 1:
                raise DrawingError(
                    problem=f"the key {name!r} has two reducers: {', '.join(map(repr, reducers))}",
                    fix="Give it the same reducer in every schema, or name it differently in one of them.",
                )
            if known is None or known.reducer is None:
                self.channels[name] = channel
        return read

    # --- drawing ------------------------------------------------------------------------------

    def set_node_defaults(
        self,
        *,
        retry_policy: RetryPolicy | Sequence[RetryPolicy] | None = None,
        cache_policy: CachePolicy[Any] | None = None,
        error_handler: Callable[..., Any] | None = None,
        timeout: float | timedelta | TimeoutPolicy | None = None,
    ) -> Self:
        """For all nodes of this graph that do not say otherwise, added before or after; not for subgraphs' nodes.

        Each as in `add_node`. Error handlers get the retry policy and the timeout, but no cache and no handler of their
        own. The default error handler runs as the node "__default_error_handler__" and takes the whole state. What is
        None stays as it was. With a timeout compile() refuses nodes that are no async functions.
        """
        before = self._defaults
        self._defaults = _Defaults(
            before.retry if retry_policy is None else _policies(retry_policy),
            before.cache if cache_policy is None else cache_policy,
            before.handler if error_handler is None else error_handler,
            before.timeout if timeout is None else policy_of(timeout),
        )
        return self

    def add_node(
        self,
        node: str | Callable[..., Any] | CompiledGraph[Any],
        action: Callable[..., Any] | CompiledGraph[Any] | None = None,
        *,
        defer: bool = False,
        metadata: Mapping[str, Any] | None = None,
        input_schema: type[Any] | None = None,
        retry_policy: RetryPolicy | Sequence[RetryPolicy] | None = None,
        cache_policy: CachePolicy[Any] | None = None,
        timeout: float | timedelta | TimeoutPolicy | None = None,
        error_handler: Callable[..., Any] | None = None,
        destinations: Mapping[str, str] | Sequence[str] | None = None,
        trace_policy: None = None,
        executor: Executor | Making | Literal[False] | None = None,
    ) -> Self:
        """Add a function as a node.

        node: its name, or the function itself, which is then named after it.
        action: the function, sync or async. It takes the state, and if it has parameters of these names also
            `config`, `runtime` and `writer`; it returns a dict with the keys to change, None, or a Command. Also a
            compiled graph, or a runnable of langchain-core, which is invoked with the state and the config.
        defer: run it only when nothing else is left to run.
        metadata: remarks, for the picture.
        input_schema: what it receives, if not the state; by default the annotation of its first parameter.
        retry_policy: when to try again within a run; of several the first that matches the error counts.
        cache_policy: do not call it again for the same input; needs compile(cache=...).
        timeout: for one attempt of an async node, in seconds, as a timedelta or a TimeoutPolicy.
        error_handler: runs when the node has failed for good, in its place: takes the state and, as `error`, a
            NodeError; what it returns counts. The node's own edges are not followed, so return Command(goto=...)
            to go on.
        destinations: where a Command of it may lead, for the picture; by default what its return annotation names.
        trace_policy: of LangGraph's; refused, as nothing is traced.
        executor: where the function is called, as in compile(); False: in a thread of the run, whatever compile() says.
            Only for plain functions: the error handler stays with the run, as do routers.

        Raises DrawingError for a name that is taken, reserved or missing, and for what is no function.
        """
        refuse("add_node()", trace_policy=(trace_policy, "nothing is traced here"))
        name, call = _named(node, action)
        ends: tuple[str, ...]
        if name in self.nodes:
            raise DrawingError(problem=f"there already is a node {name!r}", fix="Give this one another name.")
        if name in (START, END) or name.startswith((HANDLER, DEFAULT_HANDLER)):
            raise DrawingError(problem=f"the name {name!r} is reserved", fix="Choose another name.")
        if any(letter in name for letter in RESERVED):
            problem = f"the name {name!r} holds one of {' '.join(RESERVED)}, which separate the names of subgraphs"
            raise DrawingError(problem=problem, fix="Choose another name.")
        if isinstance(call, CompiledGraph):
            self._subgraphs[name] = call
            read, ends = call.node_schema(), ()
            call = call.as_node(self.channels)
        else:
            schema, ends = _annotations(call)
            read = self._schema(input_schema or schema or self.state_schema)
        policy = policy_of(timeout)
        if policy is not None:
            _check_stoppable(name, call)
        _check_executor(name, call, executor)
        handler = None
        if error_handler is not None:
            handler = HANDLER + name
            self.nodes[handler] = Node(handler, error_handler, read, wanted_arguments(error_handler))
        self.nodes[name] = Node(
            name,
            call,
            read,
            wanted_arguments(call),
            defer=defer,
            retry=None if retry_policy is None else _policies(retry_policy),
            timeout=policy,
            cache=cache_policy,
            error_handler=handler,
            executor=executor,
            destinations=_labels(destinations) if destinations is not None else dict.fromkeys(ends),
            metadata=dict(metadata or {}),
        )
        return self

    def add_edge(self, start_key: str | Sequence[str], end_key: str) -> Self:
        """After `start_key` runs `end_key`. Of a list of starts all must have run, in whichever supersteps."""
        starts = (start_key,) if isinstance(start_key, str) else tuple(start_key)
        for start in starts:
            if start == END:
                raise _edge(start, end_key, "END cannot have an edge leaving it", "Turn it around or remove it.")
        if end_key == START:
            raise _edge(starts[0], end_key, "START cannot be entered", "Name the node to go to.")
        if isinstance(start_key, str):
            self.edges.add((start_key, end_key))
        elif not starts:
            raise DrawingError(problem=f"an edge to {end_key!r} has no start", fix="Name at least one node.")
        else:
            self.waiting_edges.add((starts, end_key))
        return self

    def add_conditional_edges(self, source: str, path: Callable[..., Any], path_map: PathMap | None = None) -> Self:
        """After `source`, the router `path` says where to go.

        path: takes the state (with the update of `source` applied), returns a node's name, END, a Send, or a
        list of them. path_map: what its answers mean, {answer: node}, or the nodes it may name. By default the
            answers are the nodes; a return annotation `Literal["a", "b"]` is taken as the list.
        """
        name = getattr(path, "__name__", type(path).__name__)
        if name in self.branches[source]:
            raise DrawingError(
                problem=f"node {source!r} already has a conditional edge with the router {name!r}",
                fix="Merge the two, or name the function differently.",
            )
        schema, _ = _annotations(path)
        self.branches[source][name] = Branch(
            name,
            path,
            wanted_arguments(path),
            _ends(path, path_map),
            self._schema(schema) if schema is not None else None,
        )
        return self

    def add_sequence(self, nodes: Iterable[Callable[..., Any] | tuple[str, Callable[..., Any]]]) -> Self:
        """Add nodes that run one after the other."""
        previous: str | None = None
        for item in nodes:
            name, call = item if isinstance(item, tuple) else _named(item, None)
            self.add_node(name, call)
            if previous is not None:
                self.add_edge(previous, name)
            previous = name
        if previous is None:
            raise DrawingError(problem="add_sequence got no nodes", fix="Give at least one.")
        return self

    def set_entry_point(self, key: str) -> Self:
        """The graph begins with this node."""
        return self.add_edge(START, key)

    def set_conditional_entry_point(self, path: Callable[..., Any], path_map: PathMap | None = None) -> Self:
        """The graph begins where this router says; it takes the input."""
        return self.add_conditional_edges(START, path, path_map)

    def set_finish_point(self, key: str) -> Self:
        """After this node nothing follows."""
        return self.add_edge(key, END)

    # --- compiling ----------------------------------------------------------------------------

    def validate(self, interrupt: Sequence[str] | None = None) -> Self:
        """Check the drawing as compile() does. interrupt: nodes that are to be there."""
        self._check()
        self._pauses(interrupt)
        return self

    def compile(
        self,
        checkpointer: str | Store | bool | None = None,
        *,
        cache: Cache | str | bool | None = None,
        store: None = None,
        interrupt_before: Sequence[str] | Literal["*"] | None = None,
        interrupt_after: Sequence[str] | Literal["*"] | None = None,
        debug: bool = False,
        name: str | None = None,
        transformers: None = None,
        types: Iterable[Storable] = (),
        key: Key = None,
        encryption_key: EncryptionKey = None,
        limits: Limits | None = None,
        aliases: Mapping[str, str] | None = None,
        migrate: Callable[[dict[str, Any]], Any] | None = None,
        strict: bool = False,
        executor: Executor | Making | None = None,
    ) -> CompiledGraph[StateT]:
        """Check the drawing and make it runnable.

        checkpointer: where the steps are written. None: the database named by the environment variable
            DURABLE_GRAPH_URL, else the file durable_graph.db in the working directory. A text: a SQLAlchemy URL of
            SQLite or Postgres. False: nowhere. Nothing is opened before the first run.
        cache: for nodes and @tasks with a cache_policy. True: a table beside the log, in the same database. Else
            InMemoryCache(), a URL as above, or an object of yours as `durable_graph.Cache` describes. None: nothing is
            kept, as a subgraph that of the graph above. A cache that fails is left alone for the rest of the run, with
            a warning in the log of the process.
        interrupt_before, interrupt_after: nodes before or after which each run pauses, "*" for all; stream(None)
        goes on. debug: print all that happens. name: of the graph, as the log records it.
        types: dataclasses, pydantic models, enums and named tuples that states, payloads and custom events may hold,
            besides those that the schemas mention; a TypeHook for a class that is none of these. Those of subgraphs are
            known without saying, and langchain-core's messages where the application has imported them.
        key: makes the hash chain an HMAC; by default the environment variable DURABLE_GRAPH_KEY, else none. Several,
            to change it: the first signs what is new, any of them may have signed what there is.
        encryption_key: encrypts what is stored, as the README's "Encryption" tells: 32 bytes, or their base64 text; by
            default the environment variable DURABLE_GRAPH_ENCRYPTION_KEY, else none. Several, to change it: what is new
            is written with the first, what there is may need any of them. Or a function that returns them, called at
            first use and when a key is missing. Subgraphs use that of the graph above.
        limits: of what may be written: see Limits. Subgraphs have those of the graph above.
        aliases: for threads that began on an older drawing, {old name: name now} of nodes, keys of the state,
            reducers ("name()") and types ("module:Class"). What is pending and what the state holds goes on under
            the new name; the rows that there are keep the old one.
        migrate: for such threads, a function, sync or async, that takes the state as a dict and returns the new one.
            Called when a thread whose last run was on another drawing is continued, before anything else; what it
            returns is recorded with the run's first row, so that it is not called again for that thread. A function
            of another name counts as another drawing.
        strict: a node that changes its input in place fails with MutatedInputError, which names the key path. Each
            node then works on a copy of the state, which is compared afterwards: time in proportion to the state. For
            tests and for finding such nodes. Not for what a Send brings, which is the node's own, nor for the nodes of
            subgraphs, which are compiled by themselves.
        executor: of `concurrent.futures`, in which nodes that are plain functions are called, but for error handlers:
            a ThreadPoolExecutor, a ProcessPoolExecutor, a Dask client's. An instance is the caller's to shut down.
            A function that takes nothing and makes one (functools.partial(ProcessPoolExecutor, 4)): made when first
            needed, again when its workers have died, and ended by `graph.close()`. Async nodes, langchain-core's
            runnables and subgraphs are called as without. See the README for what nodes can do in another process.
        store, transformers: of LangGraph's; refused, as there is nothing here that they could change.

        Raises DrawingError naming the node and the fix; ArgumentError for a URL that cannot be used.
        """
        refuse(
            "compile()",
            store=(store, NO_STORE),
            transformers=(transformers, "there is no stream_events here; see stream(stream_mode=...)"),
        )
        self._check()
        before, after = self._pauses(interrupt_before), self._pauses(interrupt_after)
        graph = replace(
            self._freeze(name or "LangGraph", migrate),
            interrupt_before=before,
            interrupt_after=after,
            aliases=dict(aliases or {}),
        )
        if strict:
            graph = replace(graph, nodes={name: replace(node, strict=True) for name, node in graph.nodes.items()})
        graph = replace(graph, nodes=_placed(graph.nodes, executor))
        below = [kind for sub in self._subgraphs.values() for kind in sub.types]
        known = without_doubles([*_storable(self._schemas), *types, *below, *message_types()])
        codec = Codec([*RECORDED, *known], open_encryption(encryption_key), limits)
        _check_aliases(graph, codec)
        opened, inherits = open_store(checkpointer), inherited(checkpointer)
        return CompiledGraph(
            graph,
            opened,
            codec,
            key,
            inherits=inherits,
            types=known,
            cache=open_cache(cache, checkpointer),
            debug=debug,
        )

    def _check(self) -> None:
        known = {START, END, *self.nodes}
        for start, end in self._all_edges():
            for node in (start, end):
                if node not in known:
                    raise _edge(start, end, f"there is no node {node!r}", f"Add it. {_known(self.nodes)}")
        for source, branches in self.branches.items():
            if source not in known - {END}:
                raise DrawingError(
                    problem=f"a conditional edge leaves {source!r}, which is no node",
                    fix=f"Add that node or correct the name. {_known(self.nodes)}",
                )
            for branch in branches.values():
                self._check_ends(source, branch)
        if not any(start == START for start, _ in self._all_edges()) and not self.branches.get(START):
            raise DrawingError(
                problem="nothing leads from START to a node",
                fix="Say where to begin: add_edge(START, name), or set_entry_point(name).",
            )

    def _check_ends(self, source: str, branch: Branch) -> None:
        for answer, end in (branch.ends or {}).items():
            if end not in self.nodes and end != END:
                raise DrawingError(
                    problem=f"the router {branch.name!r} after {source!r} leads to {end!r} for {answer!r}, "
                    "which is no node",
                    fix=f"Add that node or correct the path map. {_known(self.nodes)}",
                )

    def _pauses(self, nodes: Sequence[str] | None) -> frozenset[str]:
        wanted = frozenset([nodes] if isinstance(nodes, str) else nodes or ())
        for name in sorted(wanted - {"*", *self.nodes}):
            raise DrawingError(
                problem=f"interrupt_before or interrupt_after names {name!r}, which is no node", fix=_known(self.nodes)
            )
        return wanted

    def _all_edges(self) -> list[tuple[str, str]]:
        joined = {(start, end) for starts, end in self.waiting_edges for start in starts}
        return sorted(self.edges | joined)

    def _branches_of(self, node: str) -> tuple[Branch, ...]:
        """The routers after a subgraph see the whole state, as in LangGraph, and not the part that it knows."""
        branches = self.branches[node].values() if node in self.branches else ()
        if node not in self._subgraphs:
            return tuple(branches)
        whole = self._schemas[self.state_schema]
        return tuple(replace(branch, schema=branch.schema or whole) for branch in branches)

    def _freeze(self, name: str, migrate: Callable[[dict[str, Any]], Any] | None) -> Graph:
        entry = Node(START, _no_call, self._schemas[self.input_schema])
        nodes = {node.name: self._complete(node) for node in (entry, *self.nodes.values(), *self._default_handler())}
        return Graph(
            name,
            nodes,
            decided(self.channels),
            self._schemas[self.state_schema],
            self._schemas[self.input_schema],
            self._schemas[self.output_schema],
            _fingerprint(nodes, self.channels, migrate),
            field_checks(self.state_schema),
            managed=frozenset(name for schema in self._schemas.values() for name in schema.managed),
            context=self.context_schema,
            migrate=migrate,
        )

    def _complete(self, node: Node) -> Node:
        joins = [
            Join(join_name(starts, end), frozenset(starts), end)
            for starts, end in sorted(self.waiting_edges)
            if node.name in starts
        ]
        return replace(
            self._with_defaults(node),
            successors=tuple(sorted(end for start, end in self.edges if start == node.name)),
            branches=self._branches_of(node.name),
            joins=tuple(joins),
        )

    def _default_handler(self) -> list[Node]:
        call = self._defaults.handler
        if call is None:
            return []
        return [Node(DEFAULT_HANDLER, call, self._schemas[self.state_schema], wanted_arguments(call))]

    def _with_defaults(self, node: Node) -> Node:
        if node.name == START:
            return node
        defaults = self._defaults
        if node.timeout is None and defaults.timeout is not None:
            _check_stoppable(node.name, node.call)
        node = replace(
            node,
            retry=defaults.retry if node.retry is None else node.retry,
            timeout=node.timeout or defaults.timeout,
        )
        if node.name.startswith((HANDLER, DEFAULT_HANDLER)):
            return node
        handler = DEFAULT_HANDLER if defaults.handler is not None else None
        return replace(node, cache=node.cache or defaults.cache, error_handler=node.error_handler or handler)


@dataclass(frozen=True, slots=True)
class _Defaults:
    """What `set_node_defaults` has said."""

    retry: tuple[RetryPolicy, ...] | None = None
    cache: CachePolicy[Any] | None = None
    handler: Callable[..., Any] | None = None
    timeout: TimeoutPolicy | None = None


# --- helpers ----------------------------------------------------------------------------------


def _policies(given: RetryPolicy | Sequence[RetryPolicy]) -> tuple[RetryPolicy, ...]:
    return (given,) if isinstance(given, RetryPolicy) else tuple(given)


def _check_stoppable(name: str, call: Any) -> None:
    if not is_coroutine(call):
        raise DrawingError(
            problem=f"node {name!r} has a timeout but is no async function",
            fix="A running plain function cannot be stopped: make it async, or give it a timeout of its own.",
        )


def _check_executor(name: str, call: Any, executor: Any) -> None:
    check(executor, f"node {name!r}")
    if executor and not _can_be_sent(call):
        raise DrawingError(
            problem=f"node {name!r} has an executor but is no plain function",
            fix="An async node runs in its caller's event loop, a subgraph in the run above it: leave executor= out.",
        )


def _can_be_sent(call: Any) -> bool:
    return not isinstance(call, Subgraph) and not is_coroutine(call) and not hasattr(call, "acall")


def _placed(nodes: Mapping[str, Node], default: Any) -> dict[str, Node]:
    """Each with its pool, or None. Nodes that were given the same executor share one."""
    check(default, "compile()")
    pools: dict[int, Pool] = {}
    placed = {}
    for name, node in nodes.items():
        given = node.executor
        if (
            given is None
            and _can_be_sent(node.call)
            and name != START
            and not name.startswith((HANDLER, DEFAULT_HANDLER))
        ):
            given = default
        pool = pools.setdefault(id(given), Pool(given)) if given else None
        placed[name] = node if node.executor is pool else replace(node, executor=pool)
    return placed


def _named(node: Any, action: Any) -> tuple[str, Any]:
    call = action if isinstance(node, str) else node
    runnable = hasattr(call, "invoke") and hasattr(call, "ainvoke") and not isinstance(call, CompiledGraph)
    if runnable and not callable(call):
        call = _Runnable(call)
    if not callable(call) and not isinstance(call, CompiledGraph):
        raise DrawingError(
            problem=f"the node {node!r} has no function" if isinstance(node, str) else f"{node!r} is no function",
            fix="Write add_node(name, function) or add_node(function).",
        )
    name = node if isinstance(node, str) else getattr(call, "__name__", getattr(call, "name", type(call).__name__))
    if not name:
        raise DrawingError(problem=f"the node {call!r} has an empty name", fix="Write add_node(name, function).")
    return name, call


class _Runnable:
    """A chain or model of langchain-core as a node: it has a form for each way of calling."""

    def __init__(self, runnable: Any) -> None:
        self._runnable = runnable
        self.name = runnable.get_name() if hasattr(runnable, "get_name") else type(runnable).__name__

    def __call__(self, state: Any, config: Any) -> Any:
        return self._runnable.invoke(state, config)

    async def acall(self, state: Any, config: Any) -> Any:
        return await self._runnable.ainvoke(state, config)


def _no_call(*_: Any) -> None:
    raise AssertionError("START is not called")


def _annotations(call: Callable[..., Any]) -> tuple[Any, tuple[str, ...]]:
    """The schema of the first parameter, if it has one, and the nodes that `-> Command[Literal[...]]` names."""
    target = call if inspect.isroutine(call) else type(call).__call__
    try:
        hints = get_type_hints(target, include_extras=True)
        parameters = list(inspect.signature(call).parameters)
    except (NameError, TypeError, ValueError):
        return None, ()
    first = hints.get(parameters[0]) if parameters else None
    schema = first if isinstance(first, type) and first is not dict and _has_fields(first) else None
    return schema, _command_ends(hints.get("return"))


def _has_fields(schema: type) -> bool:
    try:
        return bool(get_type_hints(schema)) and schema.__module__ != "builtins"
    except (NameError, TypeError):
        return False


def _command_ends(hint: Any) -> tuple[str, ...]:
    options = get_args(hint) if get_origin(hint) is Union or type(hint).__name__ == "UnionType" else (hint,)
    for option in options:
        if get_origin(option) is Command and get_origin(get_args(option)[0]) is Literal:
            return get_args(get_args(option)[0])
    return ()


def _labels(destinations: Mapping[str, str] | Sequence[str]) -> dict[str, str | None]:
    return dict(destinations) if isinstance(destinations, Mapping) else dict.fromkeys(destinations)


def _ends(path: Callable[..., Any], path_map: PathMap | None) -> Mapping[Hashable, str] | None:
    if isinstance(path_map, Mapping):
        return dict(path_map)
    if path_map is not None:
        return {name: name for name in path_map}
    try:
        answer = get_type_hints(path).get("return")
    except (NameError, TypeError):
        return None
    return {name: name for name in get_args(answer)} if get_origin(answer) is Literal else None


def _edge(start: Any, end: Any, problem: str, fix: str) -> DrawingError:
    return DrawingError(problem=f"the edge {start!r} -> {end!r} is wrong: {problem}", fix=fix)


def _known(nodes: Iterable[str]) -> str:
    names = ", ".join(sorted(nodes))
    return f"The nodes are: {names}." if names else "There are no nodes yet."


def _storable(schemas: Iterable[Any]) -> list[type]:
    found = {kind for schema in schemas for kind in storable_types(schema)}
    return sorted(found, key=lambda kind: (kind.__module__, kind.__qualname__))


def _check_aliases(graph: Graph, codec: Codec) -> None:
    """Let the codec know of types among the aliases. Raises DrawingError for an alias that explains nothing."""
    places = {"node": graph.nodes.keys() - {START}, "key of the state": graph.channels.keys(), "type": codec.names}
    reducers = {channel.combines for channel in graph.channels.values() if channel.reducer is not None}
    for old, new in graph.aliases.items():
        meant = [place for place, names in places.items() if new in names]
        if not meant and new not in reducers:
            raise DrawingError(
                problem=f"the alias {old!r} stands for {new!r}, which is no node, key of the state, reducer or type",
                fix=f"Write aliases={{old name: name now}}. {_known(places['node'])} The keys are: "
                f"{', '.join(sorted(graph.channels))}. A reducer is 'name()', a registered type 'module:Class'.",
            )
        for place in meant:
            if old in places[place]:
                raise DrawingError(
                    problem=f"{old!r} is an alias of {new!r} and a {place} itself",
                    fix="Take it out of the aliases, or give what is new another name.",
                )
    for old, new in graph.aliases.items():
        if new in codec.names:
            codec.also_reads(old, new)


def _fingerprint(nodes: Mapping[str, Node], channels: Mapping[str, Channel], migrate: Any) -> str:
    """A short text that changes when the drawing does, and when the migration function gets another name."""
    drawing = [
        sorted(
            (
                node.name,
                node.successors,
                [join.name for join in node.joins],
                [b.name for b in node.branches],
                node.defer,
            )
            for node in nodes.values()
        ),
        sorted((channel.name, channel.combines) for channel in channels.values()),
        *([name_of(migrate)] if migrate is not None else []),
    ]
    return hashlib.sha256(repr(drawing).encode()).hexdigest()[:16]
