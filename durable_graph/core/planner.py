"""What a thread's rows mean, and what comes next. Pure: no I/O, no clock, no threads.

A thread is the sum of its rows. `Position.apply` adds one row to that sum: the live run does it with the row it
has just written, replay and resume with the rows they read, so the three cannot disagree. The other functions
decide what the next row says; only they call user code (reducers), and only before that row exists.

The body of a row is a dictionary:

    update     what the node returned or the caller gave: a dict, a list of dicts, or None
    goto       targets chosen by routers and Commands: node names and Sends
    apply      at a barrier, {key: operation} for channels whose reducer is replayable
    results    at a barrier, {key: value} for channels whose reducer is user code
    starts     in the first row of a run, {key: value} that reducers start from; set before the update
    next       at a barrier, the tasks of the next superstep: node names, or {node, arg, timeout, triggers, seed, asked}
    parent     at the end of a subgraph's run, {update, goto} for the graph above it
    nodes      in an update row, those whose updates it holds, if there are several
    joins      at a barrier, {join: sources seen so far} for joins that still wait
    deferred   at a barrier, deferred nodes that wait for all others
    dropped    what was pending and will not run, because a new input or update came
    error      type, message and traceback of a failed task
    interrupts what a task asks: [value, id, asked in a subgraph]; [] for a pause before or after a node
    answers    in a resume row, {interrupt id: answer}
    add        in a resume row, tasks that a Command adds to the superstep at hand, as in `next`
    children   in a resume or fork row, where subgraphs of the pending tasks go on from: {task: {key: [thread, step,
               the same for the tasks of that subgraph]}}
    custom     what the task sent to the stream writer: [rows before it, number, data]
    below      rows of subgraphs that were written while the task ran: [rows before it, number, thread, from, to]
    tokens     messages that were shown in parts while the task ran: see core/tokens.py
    seen       ids of messages that are no news when they are written: shown in parts, or in the task's input
    result     of a @task that a node called, what it returned; such a row's task is "<task>/<number of the call>"
    attempt    which attempt of the task this is, from 1
    cached     True if the node or @task was not called: its update or result came from the cache
    failures   errors of the attempts before it in this run: {error, started, finished}
    started    when that attempt began
    run        in the first row of a run: its metadata and tags
    graph      there too, the graph's fingerprint; if it is not that of the run before also the names of its nodes and
               how its channels combine writes: all other keys of the state end here
    renamed    then {nodes, channels, joins}: {old: new} names of what is pending and of what the state holds
    migrated   and what a migration function did: {set: {key: value}, unset: [keys]}

A row with `next` is a barrier.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from durable_graph.codec import Unregistered
from durable_graph.core.address import place_of
from durable_graph.core.channels import (
    ATOMS,
    MISSING,
    Channel,
    Overwrite,
    Values,
    detached,
    is_removal,
    overwritten,
    reduced,
    replayable,
)
from durable_graph.core.model import (
    END,
    START,
    Branch,
    Command,
    Failure,
    Graph,
    Interrupt,
    Question,
    Send,
    Task,
    Wait,
)
from durable_graph.core.schema import as_mapping, is_coroutine
from durable_graph.core.tokens import id_of
from durable_graph.errors import (
    InvalidUpdateError,
    ParentCommand,
    RoutingError,
    UnknownInterruptError,
)

HANDLER = "__error_handler__"  # LangGraph's prefix: "<prefix><node>" took a failed node's task over
DEFAULT_HANDLER = "__default_error_handler__"  # the node that does so for all without one of their own

Body = dict[str, Any]
Update = dict[str, Any] | list[dict[str, Any]] | None
Goto = list[str | Send]
Child = Sequence[Any]  # a subgraph's thread, its step, and the children of that subgraph's tasks


class Given(NamedTuple):
    """An update from outside, as if `node` had returned it."""

    node: str
    update: Update
    goto: Goto


class Position:
    """Where a thread stands after one of its rows."""

    __slots__ = (
        "answers",
        "asked",
        "attempts",
        "begun",
        "calls",
        "children",
        "command",
        "created_at",
        "deferred",
        "done",
        "errors",
        "gotos",
        "graph",
        "hash",
        "joins",
        "kept",
        "kind",
        "last_nodes",
        "loose",
        "packed",
        "parent",
        "paused",
        "pinned",
        "questions",
        "run",
        "run_id",
        "step",
        "superstep",
        "tail",
        "tasks",
        "thread_id",
        "values",
    )

    def __init__(self, thread_id: str) -> None:
        self.thread_id = thread_id
        self.step = -1  # of the row last applied
        self.tail = -1  # of the newest row of the thread; higher than step after going back in time
        self.hash = b""
        self.parent: tuple[str, int] | None = None  # thread and step before this one
        self.kind = ""
        self.created_at = ""
        self.superstep = -1  # that the last barrier ended
        self.loose = 0  # bytes of rows since the last snapshot
        self.packed = 0  # bytes of that snapshot
        self.run_id = ""
        self.run: Mapping[str, Any] = {}
        self.graph: Mapping[str, Any] = {}  # that ran it last, as its first row tells: fingerprint, nodes ...
        self.values = Values()  # at the last barrier
        self.tasks: tuple[Task, ...] = ()  # of the superstep that the last barrier planned
        self.done: dict[str, Update] = {}  # finished ones among them
        self.gotos: dict[str, Goto] = {}
        self.errors: dict[str, Failure] = {}
        self.attempts: dict[str, int] = {}  # begun so far, for tasks that may have begun
        self.questions: dict[str, list[Question]] = {}  # open ones, by task
        self.asked: dict[str, list[Question]] = {}  # before an update that left it open: may be answered ahead
        self.answers: dict[str, list[tuple[Question, Any]]] = {}  # given so far, by task
        self.calls: dict[str, dict[int, tuple[str, Any]]] = {}  # @tasks called by unfinished ones: name, result
        self.children: dict[str, dict[str, Child]] = {}  # by task: where its subgraphs stood at its last row
        self.kept: dict[str, Child] = {}  # of subgraphs that go on from run to run: where they stand
        # After going back in time, where those have to go on from, if not from their beginning; None: any further
        self.pinned: dict[str, Child | None] | None = None
        self.begun = False  # a run may have begun these tasks
        self.paused = False  # stopped before or after a node since the last barrier, as was asked for
        self.command: Mapping[str, Any] | None = None  # for the graph above, which ended this subgraph's run
        self.joins: dict[str, list[str]] = {}
        self.deferred: list[str] = []
        self.last_nodes: tuple[str, ...] = ()  # that ran in the superstep before the last barrier

    def frozen(self) -> Position:
        """A copy that stays here when this one moves on."""
        copy = Position(self.thread_id)
        for name in Position.__slots__:
            setattr(copy, name, getattr(self, name))
        copy.values = Values(self.values.share())
        copy.done = dict(self.done)
        copy.errors = dict(self.errors)
        copy.questions = dict(self.questions)
        return copy

    @property
    def pending(self) -> list[Task]:
        return [task for task in self.tasks if task.id not in self.done]

    @property
    def runnable(self) -> list[Task]:
        """Pending tasks that do not wait for an answer."""
        return [task for task in self.tasks if task.id not in self.done and task.id not in self.questions]

    @property
    def planned_here(self) -> bool:
        """Whether the row last applied is the one that planned the tasks."""
        return bool(self.tasks) and self.tasks[0].id.partition(".")[0] == str(self.step)

    @property
    def next(self) -> tuple[str, ...]:
        return tuple([task.node for task in self.tasks if task.id not in self.done])

    def apply(self, row: Any, body: Body) -> bool:
        """Add a row; True if the state's values changed. Calls no user code and does not need the graph."""
        if row.parent_step is not None:
            self.parent = (self.thread_id, row.parent_step)
        if (row.step and row.parent_step != row.step - 1) or row.kind == "fork":
            self.pinned = {**self.kept}
        self.step = row.step
        if row.step > self.tail:
            self.tail = row.step
        self.thread_id = row.thread_id
        self.hash = row.hash
        self.kind = row.kind
        self.created_at = row.created_at
        self.loose += len(row.body)
        self.run_id = row.run_id
        if "run" in body:
            self.run = body["run"]
        if "below" in body:
            self._note_below(row, body["below"])
        if "graph" not in body:
            return _APPLY[row.kind](self, row, body)
        self.move(body)
        another = "channels" in body["graph"] and row.parent_step is not None
        return _APPLY[row.kind](self, row, body) or another

    def move(self, body: Body) -> None:
        """Go over to the graph that the first row of a run tells of. Whoever makes that row has done it before: the
        second time changes nothing."""
        self.graph = {**self.graph, **body["graph"]}
        if "renamed" in body:
            self.rename(body["renamed"])
        if "channels" in body["graph"]:
            self._keep(body["graph"]["channels"])
        migrated = body.get("migrated", _NOTHING)
        for key in migrated.get("unset", ()):
            self.values.drop(key)
        for key, value in (*migrated.get("set", _NOTHING).items(), *body.get("starts", _NOTHING).items()):
            self.values.set(key, value)

    def rename(self, names: Mapping[str, Mapping[str, str]]) -> None:
        """Call what is pending and what the state holds by its new names."""
        nodes, keys, joins = (names.get(kind, _NOTHING) for kind in ("nodes", "channels", "joins"))
        self.tasks = tuple([task._replace(node=nodes.get(task.node, task.node)) for task in self.tasks])
        self.last_nodes = tuple([nodes.get(node, node) for node in self.last_nodes])
        self.deferred = [nodes.get(node, node) for node in self.deferred]
        self.gotos = {task_id: [_aimed(nodes, target) for target in goto] for task_id, goto in self.gotos.items()}
        seen: dict[str, set[str]] = {}
        for join, sources in self.joins.items():
            seen.setdefault(joins.get(join, join), set()).update(nodes.get(source, source) for source in sources)
        self.joins = {join: sorted(sources) for join, sources in seen.items()}
        for old, new in keys.items():
            if old in self.values:
                self.values.set(new, self.values[old])
                self.values.drop(old)
        for task_id, update in self.done.items():
            if any(key in keys for key, _ in pairs(update)):
                self.done[task_id] = _folded([{keys.get(key, key): value} for key, value in pairs(update)])

    def _keep(self, keys: Mapping[str, Any]) -> None:
        for key in self.values.keys() - keys.keys():
            self.values.drop(key)
        for task_id, update in self.done.items():
            if any(key not in keys for key, _ in pairs(update)):
                self.done[task_id] = _folded([{key: value} for key, value in pairs(update) if key in keys])

    def _note_below(self, row: Any, marks: Sequence[Any]) -> None:
        known = _noted(row, marks)
        self.children = {**self.children, row.task: {**self.children.get(row.task, _NOTHING), **known}}
        kept = {key: child for key, child in known.items() if "/" in key}
        if kept:
            self.kept = {**self.kept, **kept}
            self.pinned = None if self.pinned is None else {**self.pinned, **dict.fromkeys(kept)}

    def _task(self, row: Any, body: Body) -> bool:
        if "result" in body:
            caller, _, number = row.task.rpartition("/")
            self.calls.setdefault(caller, {})[int(number)] = (row.node, body["result"])
            return False
        self.done[row.task] = body.get("update")
        if row.node.startswith((HANDLER, DEFAULT_HANDLER)):
            self.tasks = tuple([t._replace(node=row.node) if t.id == row.task else t for t in self.tasks])
        if "goto" in body:
            self.gotos[row.task] = body["goto"]
        if self.errors:
            self.errors.pop(row.task, None)
        if "next" not in body:
            return False
        changed = self._merge(_in_order(self.tasks, self.done), body)
        self.last_nodes = tuple([task.node for task in self.tasks])
        self._plan(row, body)
        return changed

    def _input(self, row: Any, body: Body) -> bool:
        self._merge([body.get("update")], body)
        self.last_nodes = (START,)
        self._plan(row, body)
        return True

    def _update(self, row: Any, body: Body) -> bool:
        changed = self._merge([*_in_order(self.tasks, self.done), body.get("update")], body)
        self.last_nodes = (row.node,) if row.node else tuple(body.get("nodes", ()))
        paused = self.paused
        self._plan(row, body)
        self.paused = paused  # who paused has looked: an update is why one pauses
        self.begun = False
        return changed

    def _error(self, row: Any, body: Body) -> bool:
        self.errors[row.task] = Failure(**body["error"])
        self.attempts[row.task] = body["attempt"]
        return False

    def _interrupt(self, row: Any, body: Body) -> bool:
        if row.task is None:
            self.paused = True
            return False
        self.asked.pop(row.task, None)
        self.questions[row.task] = [
            Question(Interrupt(value, name), below) for value, name, below in body["interrupts"]
        ]
        self.attempts[row.task] = body.get("attempt", 1)
        return False

    def _resume(self, row: Any, body: Body) -> bool:
        # a task that had begun and has neither a result nor an error or interrupt row may have run: count it
        for task in self.pending if self.begun else ():
            if task.id not in self.errors and task.id not in self.questions:
                self.attempts[task.id] = self.attempts.get(task.id, 0) + 1
        self.errors, self.begun = {}, True
        self._answer(body.get("answers"))
        self._know(body)
        if row.step != row.parent_step + 1 or "children" in body:
            self._branch(row.step)
        added = body.get("add", ())
        self.tasks += planned(row, added, len(self.tasks)) if added else ()
        return self._merge([body.get("update")], body)

    @property
    def waits(self) -> dict[str, Wait]:
        """What open questions wait for besides somebody's answer: a time or a signal, by the question's id."""
        asked = (q.interrupt for task in self.tasks for q in self.questions.get(task.id, ()))
        return {interrupt.id: interrupt.value for interrupt in asked if isinstance(interrupt.value, Wait)}

    def _answer(self, answers: Mapping[str, Any] | None) -> None:
        """Without an answer all that asked somebody run again, and may ask again; else only those that were
        answered."""
        if answers is None:
            waits = self.waits
            self.questions = {
                task_id: asked
                for task_id, asked in self.questions.items()
                if asked and all(question.interrupt.id in waits for question in asked)
            }
            return
        for task_id, questions in [*self.questions.items(), *self.asked.items()]:
            given = [(q, answers[q.interrupt.id]) for q in questions if q.interrupt.id in answers]
            if given:
                self.answers[task_id] = [*self.answers.get(task_id, ()), *given]
                self.questions.pop(task_id, None)
                self.asked.pop(task_id, None)

    def _branch(self, step: int) -> None:
        """After going back in time the tasks are new ones: they get ids of their own."""
        ids = {task.id: f"{step}.{place}" for place, task in enumerate(self.tasks)}
        self.tasks = tuple([task._replace(id=ids[task.id]) for task in self.tasks])
        self.done = {ids[task_id]: update for task_id, update in self.done.items()}
        self.gotos = {ids[task_id]: goto for task_id, goto in self.gotos.items()}
        self.answers = {ids[task_id]: answers for task_id, answers in self.answers.items()}
        self.questions = {ids[task_id]: questions for task_id, questions in self.questions.items()}
        self.asked = {ids[task_id]: questions for task_id, questions in self.asked.items()}
        self.calls = {_renamed(ids, caller): calls for caller, calls in self.calls.items()}
        self.errors = {_renamed(ids, task_id): failure for task_id, failure in self.errors.items()}
        self.children = {_renamed(ids, caller): children for caller, children in self.children.items()}
        self.attempts = {}

    def _know(self, body: Body) -> None:
        for task_id, children in body.get("children", _NOTHING).items():
            self.children = {**self.children, task_id: {**self.children.get(task_id, _NOTHING), **children}}

    def _fork(self, row: Any, body: Body) -> bool:
        self.begun = False
        self._know(body)
        self._branch(row.step)  # the ids are those of the other thread's steps
        return False

    def forked(self) -> Position:
        """As a fork of this one would begin."""
        copy = self.frozen()
        copy._branch(0)
        return copy

    def _merge(self, updates: Sequence[Update], body: Body) -> bool:
        operations, results = body.get("apply", _NOTHING), body.get("results", _NOTHING)
        written = _by_key(updates)
        for key, writes in written.items():
            if key in results:
                continue
            whole = overwritten(writes)
            if whole is None and key in operations:
                self.values.reduce(key, operations[key], writes)
            else:
                self.values.set(key, writes[-1] if whole is None else whole.value)
        for key, value in results.items():
            self.values.set(key, value)
        return bool(written or results)

    def _plan(self, row: Any, body: Body) -> None:
        self.superstep = row.superstep
        self.begun = True
        self.command = body.get("parent")
        self.tasks = planned(row, body["next"])
        self.joins = body.get("joins", {})
        self.deferred = body.get("deferred", [])
        self.paused = False
        self.done = {}
        self.gotos = {}
        self.errors = {}
        self.attempts = {}
        self.questions = {}
        self.answers = {}
        self.asked = _asked_before(row.step, body["next"])
        self.calls = {}
        self.children = {}


class Later:
    """What has become of a barrier's tasks: their results, errors and questions, from rows that came after it."""

    def __init__(self, barrier: Position) -> None:
        self.done = dict(barrier.done)
        self.errors = dict(barrier.errors)
        self.questions = dict(barrier.questions)
        self.children = dict(barrier.children)

    def note(self, position: Position) -> None:
        """Add the row that `position` has just applied; not that of the next barrier, which `close` adds."""
        self.done.update(position.done)
        self.errors.update(position.errors)
        self.questions.update(position.questions)
        self.children.update(position.children)

    def close(self, row: Any, body: Body) -> None:
        """Add the row of the superstep's last task."""
        if row.kind == "task":
            self.done[row.task] = body.get("update")
            known = _noted(row, body.get("below", ()))
            if known:
                self.children[row.task] = {**self.children.get(row.task, _NOTHING), **known}


def _noted(row: Any, marks: Sequence[Any]) -> dict[str, Child]:
    """What a task's row tells of its subgraphs, by their keys."""
    places = [(place_of(row.thread_id, row.node, row.task, mark[2]), mark) for mark in marks]
    return {place.key: (mark[2], mark[4], _NOTHING) for place, mark in places}


_NOTHING: dict[str, Any] = {}  # never changed
_APPLY = {
    "input": Position._input,
    "task": Position._task,
    "interrupt": Position._interrupt,
    "error": Position._error,
    "resume": Position._resume,
    "update": Position._update,
    "fork": Position._fork,
}


def pairs(update: Update) -> Iterable[tuple[str, Any]]:
    """An update's writes, in order. A list of dicts is how one task writes a key more than once."""
    if update is None:
        return ()
    if isinstance(update, dict):
        return update.items()
    return [pair for part in update for pair in part.items()]


def planned(row: Any, entries: Sequence[Any], first: int = 0) -> tuple[Task, ...]:
    """The tasks that a barrier's `next` stands for."""
    return tuple([_planned(row.thread_id, f"{row.step}.{place}", entry) for place, entry in enumerate(entries, first)])


def _planned(thread_id: str, task_id: str, entry: Any) -> Task:
    seed = f"{thread_id}/{task_id}"
    if isinstance(entry, str):
        return Task(task_id, entry, (branch_to(entry),), MISSING, seed)
    triggers = tuple(entry.get("triggers", ("__send__",)))
    arg, seed = entry.get("arg", MISSING), entry.get("seed", seed)
    return Task(task_id, entry["node"], triggers, arg, seed, entry.get("timeout"))


def _asked_before(step: int, entries: Sequence[Any]) -> dict[str, list[Question]]:
    return {
        f"{step}.{place}": [Question(Interrupt(None, name), below) for name, below in entry["asked"]]
        for place, entry in enumerate(entries)
        if not isinstance(entry, str) and "asked" in entry
    }


def task_of(position: Position, node: str, task_id: str) -> Task:
    """The task that a row names, as long as its barrier has not been applied."""
    if "/" in task_id:
        return Task(task_id, node, ("__call__",))
    place = task_id.rpartition(".")[2]
    likely = position.tasks[int(place) : int(place) + 1] if place.isdecimal() else ()
    known = next((task for tasks in (likely, position.tasks) for task in tasks if task.id == task_id), None)
    if known is None:
        return Task(task_id, node, ())
    return known if known.node == node else known._replace(node=node)  # an error handler stands in for its node


def _renamed(ids: Mapping[str, str], task: str) -> str:
    """A task's id, or that of a call below it, with the task's new id."""
    top, slash, rest = task.partition("/")
    return f"{ids[top]}{slash}{rest}"


def _aimed(nodes: Mapping[str, str], target: str | Send) -> str | Send:
    if isinstance(target, Send):
        return Send(nodes.get(target.node, target.node), target.arg)
    return nodes.get(target, target)


def _in_order(tasks: Sequence[Task], done: Mapping[str, Update]) -> list[Update]:
    """Finished tasks' updates in task order, so that the state does not depend on who was first."""
    if len(done) == 1:
        return list(done.values())
    return [done[task.id] for task in tasks if task.id in done]


# --- what a node returned ---------------------------------------------------------------------


def interpret(graph: Graph, node: str, output: Any) -> tuple[Update, Goto]:
    """Split what a node returned into its update, checked and detached from the node's objects, and its targets."""
    if output is None:
        return None, []
    if type(output) is dict:
        return check_update(graph, f"Node {node!r}", output), []
    updates, goto = taken_apart(graph, node, output)
    return checked(graph, node, updates), goto


def taken_apart(graph: Graph, node: str, output: Any) -> tuple[list[Mapping[str, Any]], Goto]:
    """The updates and targets in what a node returned, as they are; raises InvalidUpdateError for what is neither."""
    updates: list[Mapping[str, Any]] = []
    goto: Goto = []
    if output is None:
        return updates, goto
    parts = output if isinstance(output, list | tuple) else (output,)
    if parts is output and not any(isinstance(part, Command) for part in parts):
        raise _not_an_update(f"Node {node!r}", output)
    for part in parts:
        if isinstance(part, Command):
            if part.graph == Command.PARENT:
                raise ParentCommand(part)
            goto += _targets(part.goto)
            part = part.update
        if part is not None:
            updates += _mappings(graph, f"Node {node!r}", part)
    return updates, goto


def checked(graph: Graph, node: str, updates: Iterable[Mapping[str, Any]]) -> Update:
    """A node's updates as its row records them."""
    return _folded([check_update(graph, f"Node {node!r}", update) for update in updates])


def check_update(graph: Graph, where: str, update: Mapping[str, Any]) -> dict[str, Any]:
    """A detached copy of an update; raises InvalidUpdateError for a key that is none, or a value of the wrong type."""
    if graph.managed and not graph.managed.isdisjoint(update):  # given to the node, which gives it back
        update = {key: value for key, value in update.items() if key not in graph.managed}
    checked = {}
    for key, value in update.items():
        channel = graph.channels.get(key)
        if channel is None:
            known = ", ".join(sorted(graph.channels))
            raise InvalidUpdateError(
                where=where,
                problem=f"the update has the unknown key {key!r}",
                fix=f"Add it to the state's schema or leave it out of the update. Known keys: {known}",
            )
        if key in graph.checks and channel.reducer is None:
            _check_value(graph, where, key, value)
        checked[key] = detached(value) if channel.prepare is None else _prepared(channel, where, value)
    return checked


def _prepared(channel: Channel, where: str, value: Any) -> Any:
    assert channel.prepare is not None
    try:
        return channel.prepare(detached(value))
    except ValueError as error:
        raise InvalidUpdateError(
            where=where, problem=f"the value for {channel.name!r} does not fit: {error}", fix="Correct the value"
        ) from error


def _check_value(graph: Graph, where: str, key: str, value: Any) -> None:
    try:
        graph.checks[key](value)
    except ValueError as error:
        raise InvalidUpdateError(
            where=where,
            problem=f"the value for {key!r} does not fit the state's schema: {error}",
            fix="Return a value of the type that the schema names.",
        ) from error


def with_pushed(graph: Graph, node: str, pushed: Mapping[tuple[str, str], Any], update: Update) -> Update:
    """A node's update, with the messages in front that it has written while it ran."""
    first = [check_update(graph, f"Node {node!r}", {key: message}) for (key, _), message in pushed.items()]
    rest = update if isinstance(update, list) else [update] if update else []
    return _folded([*first, *rest])


def _mappings(graph: Graph, where: str, value: Any) -> list[Mapping[str, Any]]:
    if isinstance(value, list | tuple) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in value):
        return [{key: item} for key, item in value]  # LangGraph takes pairs in Command(update=...)
    update = as_mapping(value, graph.channels)
    if update is None:
        raise _not_an_update(where, value)
    return [update]


def _given(graph: Graph, where: str, value: Any) -> Update:
    """An update from outside of a node, checked."""
    return _folded([check_update(graph, where, update) for update in _mappings(graph, where, value)])


def _not_an_update(where: str, value: Any) -> InvalidUpdateError:
    return InvalidUpdateError(
        where=where,
        problem=f"expected a dict of state keys, got {type(value).__name__}: {_short(value)}",
        fix="Return a dict with the keys to change, None for no change, or a Command.",
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _folded(updates: list[dict[str, Any]]) -> Update:
    """One dict if no key is written twice, as LangGraph shows it; else all of them."""
    if not updates:
        return None
    merged = {key: value for update in updates for key, value in update.items()}
    return merged if len(merged) == sum(map(len, updates)) else updates


# --- messages -----------------------------------------------------------------------------------


def messages_in(value: Any, chat: bool) -> Iterable[Any]:
    """The messages in a write. chat: it is to a list of messages, where a dict is one; elsewhere only objects are."""
    value = value.value if type(value) is Overwrite else value
    items = value if isinstance(value, list | tuple) else (value,)
    chat = chat and type(value) is list
    return [item for item in items if (_is_message(item) or (chat and isinstance(item, dict))) and not is_removal(item)]


def _is_message(item: Any) -> bool:
    """Whether it is an object of langchain-core, without asking its class, which need not be registered here."""
    fields = item.data if type(item) is Unregistered else getattr(item, "__dict__", None)
    return isinstance(fields, dict) and "additional_kwargs" in fields and "content" in fields


def known_messages(graph: Graph, position: Position, task: Task, update: Update) -> list[str]:
    """The ids of those messages in an update that the task had been given: returned again, they are no news."""
    if update is None or (isinstance(update, dict) and all(type(value) in ATOMS for value in update.values())):
        return []
    chats = [key for key, channel in graph.channels.items() if channel.operation == "messages"]
    written = [
        name for key, value in pairs(update) for m in messages_in(value, key in chats) if (name := id_of(m)) is not None
    ]
    if not written:
        return []
    places = [position.values.places(key) for key in chats]
    given = _given_messages(graph, position, task, update)
    return [name for name in dict.fromkeys(written) if name in given or any(name in known for known in places)]


def _given_messages(graph: Graph, position: Position, task: Task, update: Update) -> set[str | None]:
    """Ids of messages outside of the lists of messages. Looks into no list that is longer than what is written."""
    looked = []
    replaced = {key for key, _ in pairs(update) if graph.channels[key].reducer is None}
    for key, value in position.values.items():
        if key in replaced or not isinstance(value, list | tuple):
            looked.append(value)
    if task.arg is not MISSING:
        looked += task.arg.values() if isinstance(task.arg, dict) else [task.arg]
    return {id_of(message) for value in looked for message in messages_in(value, True)} - {None}


# --- where to go ------------------------------------------------------------------------------


def _targets(goto: Any) -> Goto:
    """`goto=` in any of its forms, as a list."""
    return list(goto) if isinstance(goto, list | tuple) else [goto]


def check_targets(graph: Graph, source: str, targets: Sequence[Any]) -> Goto:
    """The targets that are to run; raises RoutingError for what is no node."""
    for target in targets:
        name = target.node if isinstance(target, Send) else target
        if isinstance(target, Send) and name == END:
            raise _no_target(graph, source, "a Send cannot go to END")
        if not isinstance(name, str) or (name != END and (name not in graph.nodes or name == START)):
            raise _no_target(graph, source, f"there is no node {name!r}")
        if isinstance(target, Send) and target.timeout is not None and not is_coroutine(graph.nodes[name].call):
            raise RoutingError(
                node=source,
                problem=f"a Send to {name!r} has a timeout, but that node is no async function",
                fix="A running plain function cannot be stopped: make it async, or leave the timeout out.",
            )
    return [_detached(target) if isinstance(target, Send) else target for target in targets if target != END]


def _detached(send: Send) -> Send:
    return Send(send.node, detached(send.arg), timeout=send.timeout)


def _no_target(graph: Graph, source: str, problem: str) -> RoutingError:
    names = ", ".join(sorted(set(graph.nodes) - {START}))
    return RoutingError(
        node=source,
        problem=problem,
        fix=f"Go to one of: {names}; or to END. Nothing was recorded for this task.",
    )


def answer_of(graph: Graph, source: str, branch: Branch, answer: Any) -> Goto:
    """What a router's answer means."""
    if answer is None:
        raise _no_target(graph, source, f"the router {branch.name!r} returned None")
    answers = _targets(answer)
    if branch.ends is None:
        return check_targets(graph, source, answers)
    targets = []
    for item in answers:
        if not isinstance(item, Send) and not _is_answer(branch.ends, item):
            known = ", ".join(map(repr, branch.ends))
            raise _no_target(graph, source, f"the router {branch.name!r} answered {item!r}, its path map has {known}")
        targets.append(item if isinstance(item, Send) else branch.ends[item])
    return check_targets(graph, source, targets)


def _is_answer(ends: Mapping[Hashable, str], answer: Any) -> bool:
    try:
        return answer in ends
    except TypeError:  # unhashable
        return False


def router_state(graph: Graph, values: Values, update: Update) -> dict[str, Any]:
    """The state as a router sees it: with its own node's update applied, and not its siblings'."""
    if not update:
        return values
    state = dict(values)
    for key, writes in _by_key([update]).items():
        channel = graph.channels[key]
        last = writes[-1]
        state[key] = (
            _reduced(key, channel, state.get(key, MISSING), writes)
            if channel.reducer is not None
            else (last.value if isinstance(last, Overwrite) else last)
        )
    return state


# --- what a row says --------------------------------------------------------------------------


def _by_key(updates: Sequence[Update]) -> dict[str, list[Any]]:
    if len(updates) == 1 and isinstance(updates[0], dict):
        return {key: [value] for key, value in updates[0].items()}
    writes: dict[str, list[Any]] = {}
    for update in updates:
        for key, value in pairs(update):
            writes.setdefault(key, []).append(value)
    return writes


def reduce_into(graph: Graph, values: Values, updates: Sequence[Update], body: Body) -> None:
    """Say in `body` how these updates combine with the values. Calls custom reducers."""
    operations: dict[str, str] = {}
    results: dict[str, Any] = {}
    for key, writes in _by_key(updates).items():
        channel = graph.channels.get(key)
        if channel is None or channel.reducer is None:
            continue  # a key that the schema has lost since keeps its last value
        old = values.get(key, MISSING)
        if replayable(channel, old, writes):
            assert channel.operation is not None
            operations[key] = channel.operation
        else:
            results[key] = _reduced(channel.name, channel, old, writes)
    if operations:
        body["apply"] = operations
    if results:
        body["results"] = results


def _reduced(key: str, channel: Any, old: Any, writes: list[Any]) -> Any:
    try:
        return reduced(channel, old, writes)
    except Exception as error:
        raise InvalidUpdateError(
            where=f"The reducer of {key!r}",
            problem=f"it raised {type(error).__name__}: {error}",
            fix="Correct the reducer or the update. Nothing was recorded for this task; it runs again on continuing",
        ) from error


def check_conflicts(graph: Graph, position: Position, task: Task, update: Update) -> None:
    """A key without a reducer takes one write in a superstep."""
    if len(position.tasks) == 1 and not isinstance(update, list):
        return  # a dict writes each of its keys once
    mine = _by_key([update])
    for key, writes in mine.items():
        if len(writes) > 1 and _once(graph, key, writes):
            raise _conflict(graph, key, task.node, task.node)
    if len(position.tasks) == 1:
        return
    nodes = {other.id: other.node for other in position.tasks}
    for other_id, other in position.done.items():
        for key, write in pairs(other):
            if key in mine and _once(graph, key, [write, *mine[key]]):
                raise _conflict(graph, key, task.node, nodes[other_id])


def _once(graph: Graph, key: str, writes: Sequence[Any]) -> bool:
    """Whether these writes of one superstep exclude each other: without a reducer, or each meant to be the whole."""
    channel = graph.channels.get(key)
    if channel is None:
        return False
    return channel.reducer is None or sum(type(write) is Overwrite for write in writes) > 1


def _conflict(graph: Graph, key: str, node: str, other: str) -> InvalidUpdateError:
    if graph.channels[key].reducer is not None:
        return InvalidUpdateError(
            where=f"Node {node!r}",
            problem=f"{key!r} gets two Overwrites in one superstep (the other one is by {other!r})",
            fix="Let one of them overwrite the key.",
        )
    return InvalidUpdateError(
        where=f"Node {node!r}",
        problem=f"{key!r} is written twice in one superstep (the other write is by {other!r})",
        fix=f"Give {key!r} a reducer, as in Annotated[list, operator.add], or let one node write it",
    )


def task_body(graph: Graph, position: Position, task: Task, update: Update, goto: Goto) -> Body:
    """The body of a finished task's row: with the barrier's part if it is the last one of its superstep."""
    check_conflicts(graph, position, task, update)
    body: Body = {"update": update}
    if goto:
        body["goto"] = goto
    if len(position.tasks) == 1:
        reduce_into(graph, position.values, [update], body)
        plan_into(graph, position, [(task.node, goto)], body)
    elif len(position.done) + 1 == len(position.tasks):
        done = {**position.done, task.id: update}
        gotos = {**position.gotos, task.id: goto}
        reduce_into(graph, position.values, _in_order(position.tasks, done), body)
        ran = [(task.node if t.id == task.id else t.node, gotos.get(t.id, [])) for t in position.tasks]
        plan_into(graph, position, ran, body)
    return body


def parent_body(position: Position, command: Command[Any]) -> Body:
    """The body of the row of a task that gave a Command to the graph above: this run ends with it."""
    dropped = [task.node for task in position.pending][1:]
    body: Body = {"update": None, "parent": {"update": command.update, "goto": _targets(command.goto)}, "next": []}
    return {**body, "dropped": dropped} if dropped else body


def plan_into(graph: Graph, position: Position, finished: Sequence[tuple[str, Goto]], body: Body) -> None:
    """Say in `body` what runs after these nodes: plain targets by name, then Sends in the order they were sent."""
    triggers: dict[str, list[str]] = {}
    sends: list[Send] = []
    joins = {name: set(seen) for name, seen in position.joins.items()} if position.joins else {}
    for name, goto in finished:
        node = graph.nodes[name]
        for target in (*node.successors, *goto):
            if isinstance(target, Send):
                sends.append(target)
            elif target != END:
                _add(triggers, target, _BRANCH)
        for join in node.joins:
            joins.setdefault(join.name, set()).add(name)
    complete = _complete_joins(graph, joins, triggers) if joins else {}
    if deferred := _hold_deferred(graph, position.deferred, triggers, bool(sends)):
        body["deferred"] = deferred
    # a complete join whose target is held back stays complete: sources that come again count for nothing
    waiting = {name: sorted(seen) for name, seen in joins.items() if complete.get(name, name) not in triggers}
    if waiting:
        body["joins"] = waiting
    body["next"] = [_entry(name, triggers[name]) for name in sorted(triggers)]
    if sends:
        body["next"] += [_sent(send) for send in sends]


def _add(triggers: dict[str, list[str]], node: str, trigger: str) -> None:
    seen = triggers.setdefault(node, [])
    if trigger not in seen:
        seen.append(trigger)


def _complete_joins(graph: Graph, seen: dict[str, set[str]], triggers: dict[str, list[str]]) -> dict[str, str]:
    """Trigger the targets of complete joins: {join: target}. Forgets joins that the drawing has lost."""
    joins = {join.name: join for node in graph.nodes.values() for join in node.joins}
    complete = {}
    for name in list(seen):
        join = joins.get(name)
        if join is None:
            del seen[name]  # nothing waits for it
        elif seen[name] >= join.sources:
            _add(triggers, join.target, name)
            complete[name] = join.target
    return complete


def _hold_deferred(graph: Graph, deferred: Sequence[str], triggers: dict[str, list[str]], sends: bool) -> list[str]:
    """Take deferred nodes out of `triggers` while anything else is to run; put all back when nothing is."""
    held = [name for name in triggers if graph.nodes[name].defer]
    if not held and not deferred:
        return []
    waiting = sorted({*deferred, *held})
    for name in held:
        del triggers[name]
    if triggers or sends:
        return waiting
    for name in waiting:
        triggers[name] = [_BRANCH]
    return []


_BRANCH = "branch"  # a plain edge, a router or a Command, among the triggers of a node; else the name of a join


def _sent(send: Send) -> dict[str, Any]:
    entry = {"node": send.node, "arg": send.arg}
    return entry if send.timeout is None else {**entry, "timeout": send.timeout}


def _entry(name: str, triggers: list[str]) -> Any:
    if triggers == [_BRANCH]:
        return name
    return {"node": name, "triggers": [branch_to(name) if trigger == _BRANCH else trigger for trigger in triggers]}


def branch_to(name: str) -> str:
    """LangGraph's name for it."""
    return f"branch:to:{name}"


def starts_of(graph: Graph, position: Position) -> dict[str, Any]:
    """What reducers start from, for channels that have no value yet."""
    return {
        name: channel.initial()
        for name, channel in graph.channels.items()
        if channel.initial is not None and name not in position.values
    }


def input_body(graph: Graph, position: Position, update: Update, goto: Goto) -> Body:
    """The body of an accepted input: it starts a new run on the thread's state, and what was pending is dropped."""
    body: Body = {"update": update}
    starts = starts_of(graph, position)
    values = Values({**position.values, **starts}) if starts else position.values
    if starts:
        body["starts"] = starts
    reduce_into(graph, values, [update], body)
    _drop_into(position, body)
    fresh = Position(position.thread_id)
    plan_into(graph, fresh, [(START, goto)], body)
    return body


def update_body(graph: Graph, position: Position, updates: Sequence[Given], task: str | None = None) -> Body:
    """The body of `update_state`: as if these nodes had returned these updates, after the siblings that have
    finished. `task` is the one whose place the update takes, if the caller has named it."""
    body: Body = {"update": updates[0].update if len(updates) == 1 else _folded([*_each(updates)])}
    if len(updates) > 1:
        body["nodes"] = [given.node for given in updates]
        _check_together(graph, updates)
    reduce_into(graph, position.values, [*_in_order(position.tasks, position.done), body["update"]], body)
    nodes = {given.node for given in updates}
    dropped = [t.node for t in position.pending if (t.id != task if task else t.node not in nodes)]
    dropped += _forget_gone(graph, position)
    if dropped:
        body["dropped"] = dropped
    ended = [task for task in position.tasks if task.id in position.done and task.node in graph.nodes]
    finished = [(task.node, position.gotos.get(task.id, [])) for task in ended]
    if nodes == {END}:
        body["next"] = []
        return body
    plan_into(graph, position, [*finished, *((given.node, given.goto) for given in updates)], body)
    _keep_questions(position, body["next"])
    return body


def _each(updates: Sequence[Given]) -> Iterable[dict[str, Any]]:
    for given in updates:
        yield from given.update if isinstance(given.update, list) else [given.update or {}]


def _check_together(graph: Graph, updates: Sequence[Given]) -> None:
    """Updates of one superstep: a key without a reducer takes one write."""
    by: dict[str, list[tuple[str, Any]]] = {}
    for given in updates:
        for key, write in pairs(given.update):
            by.setdefault(key, []).append((given.node, write))
    for key, writes in by.items():
        if len(writes) > 1 and _once(graph, key, [write for _, write in writes]):
            raise _conflict(graph, key, writes[1][0], writes[0][0])


def _keep_questions(position: Position, entries: list[Any]) -> None:
    """A task that has asked, and is planned once more by an update, asks under the same names: an answer may be
    given right after the update. Not if it has answers already: what they answered may have changed."""
    left = [t for t in position.pending if t.id in position.questions and t.id not in position.answers]
    waits = position.waits
    for place, entry in enumerate(entries):
        name = entry if isinstance(entry, str) else entry["node"]
        before = next((t for t in left if t.node == name), None)
        if before is None:
            continue
        left.remove(before)
        asked = [[q.interrupt.id, q.below] for q in position.questions[before.id] if q.interrupt.id not in waits]
        plain = {"node": entry, "triggers": [f"branch:to:{entry}"]} if isinstance(entry, str) else entry
        entries[place] = {**plain, "seed": before.seed, "asked": asked}


def _forget_gone(graph: Graph, position: Position) -> list[str]:
    """Take out what was to run later and the graph does not have any more; its names."""
    known = {join.name for node in graph.nodes.values() for join in node.joins}
    targets = [_name_of(target) for goto in position.gotos.values() for target in goto]
    gone = [name for name in (*targets, *position.deferred) if name not in graph.nodes]
    gone += [join for join in position.joins if join not in known]
    if gone:
        position.gotos = {
            task_id: [target for target in goto if _name_of(target) in graph.nodes]
            for task_id, goto in position.gotos.items()
        }
        position.deferred = [name for name in position.deferred if name in graph.nodes]
        position.joins = {name: seen for name, seen in position.joins.items() if name in known}
    return gone


def _name_of(target: str | Send) -> str:
    return target.node if isinstance(target, Send) else target


def _drop_into(position: Position, body: Body) -> None:
    if position.tasks or position.deferred:
        body["dropped"] = [*[task.node for task in position.pending], *position.deferred]


def accept_input(graph: Graph, value: Any) -> dict[str, Any]:
    """The update that a run's input stands for; raises InvalidUpdateError for what is none."""
    update = as_mapping(value, graph.input.keys)
    if update is None:
        raise InvalidUpdateError(
            where="The input",
            problem=f"expected a dict of state keys, got {type(value).__name__}: {_short(value)}",
            fix=f"Give a dict with keys of the input schema: {', '.join(graph.input.keys)}",
        )
    for key in update:
        if key not in graph.input.channels and key not in graph.managed:
            raise InvalidUpdateError(
                where="The input",
                problem=f"it has the unknown key {key!r}",
                fix=f"Leave it out or add it to the input schema. Known keys: {', '.join(graph.input.keys)}",
            )
    return check_update(graph, "The input", update)


def command_body(graph: Graph, position: Position, command: Command[Any]) -> Body:
    """The body of a resume row for a Command as an input: an answer, an update, more tasks."""
    if command.graph is not None:
        raise InvalidUpdateError(
            where="The input",
            problem=f"a Command for the graph {command.graph!r} has none above it to go to",
            fix="Leave graph= out: as an input a Command is for the thread that it is given to",
        )
    body: Body = {}
    if command.resume is not None:
        body["answers"] = _answers(position, command.resume)
    if command.update is not None:
        update = _given(graph, "Command.update", command.update)
        body["update"] = update
        reduce_into(graph, position.values, [update], body)
    targets = check_targets(graph, "Command.goto", _targets(command.goto))
    if targets:
        body["add"] = [_sent(target) if isinstance(target, Send) else target for target in targets]
    return body


def _answers(position: Position, resume: Any) -> dict[str, Any]:
    """{interrupt id: answer}; raises UnknownInterruptError for an answer that fits no open question, or several."""
    ahead = [questions for task_id, questions in position.asked.items() if task_id not in position.done]
    asked = [question.interrupt for questions in [*position.questions.values(), *ahead] for question in questions]
    asked = [interrupt for interrupt in asked if not isinstance(interrupt.value, Wait)]
    ids = [interrupt.id for interrupt in asked]
    if isinstance(resume, dict) and resume and all(_is_interrupt_id(key) for key in resume):
        unknown = [key for key in resume if key not in ids]
        if unknown:
            raise _no_question(position, f"no open question has the id {unknown[0]!r}", asked)
        return dict(resume)
    if len(ids) != 1:
        problem = f"there are {len(ids)} open questions" if ids else "it is not waiting for an answer"
        raise _no_question(position, problem, asked)
    return {ids[0]: resume}


def _is_interrupt_id(key: Any) -> bool:
    return isinstance(key, str) and len(key) == 32 and all(letter in "0123456789abcdef" for letter in key)


def _no_question(position: Position, problem: str, asked: Sequence[Interrupt]) -> UnknownInterruptError:
    fix = (
        "Answer by id: Command(resume={id: answer})." if asked else "It may have been answered already: see get_state."
    )
    shown = ", ".join(f"{interrupt.id} ({_short(interrupt.value)})" for interrupt in asked) or "none"
    return UnknownInterruptError(thread_id=position.thread_id, problem=problem, open=shown, fix=fix)


def accept_update(graph: Graph, value: Any) -> Update:
    """The update that was given to update_state; raises InvalidUpdateError for what is none."""
    return None if value is None else _given(graph, "update_state", value)
