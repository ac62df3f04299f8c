"""What a thread's rows mean. Pure: no I/O, no clock, no threads, no code of the user's.

A thread is the sum of its rows. `Position.apply` adds one row to that sum: the live run does it with the row it
has just written, replay and resume with the rows they read, so the three cannot disagree.

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

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from durable_graph.core.address import place_of
from durable_graph.core.channels import MISSING, Overwrite, Values, overwritten
from durable_graph.core.model import START, Failure, Interrupt, Question, Send, Task, Wait

HANDLER = "__error_handler__"  # LangGraph's prefix: "<prefix><node>" took a failed node's task over
DEFAULT_HANDLER = "__default_error_handler__"  # the node that does so for all without one of their own

Body = dict[str, Any]
Update = dict[str, Any] | list[dict[str, Any]] | None
Goto = list[str | Send]
Child = Sequence[Any]  # a subgraph's thread, its step, and the children of that subgraph's tasks


class Position:
    """Where a thread stands after one of its rows."""

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
        self.packed = 0  # bytes of that snapshot, or of the one that was not worth it since
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
        copy = Position.__new__(Position)
        copy.__dict__.update({k: v.copy() if type(v) is dict else v for k, v in self.__dict__.items()})
        copy.values = Values(self.values.share())
        copy.calls = {caller: calls.copy() for caller, calls in self.calls.items()}
        return copy

    def stand(self) -> Stand:
        """What is shown of it, to be kept when this one moves on."""
        return Stand(
            self.thread_id,
            self.step,
            self.parent,
            self.kind,
            self.created_at,
            self.superstep,
            self.run_id,
            self.run,
            dict(self.values.share()),
            self.tasks,
            self.next,
            dict(self.done),
            dict(self.errors),
            dict(self.questions),
            self.children,
        )

    @property
    def pending(self) -> list[Task]:
        return [task for task in self.tasks if task.id not in self.done]

    @property
    def runnable(self) -> Sequence[Task]:
        """Pending tasks that do not wait for an answer."""
        if not self.done and not self.questions:
            return self.tasks
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
                self.done[task_id] = folded([{keys.get(key, key): value} for key, value in pairs(update)])

    def _keep(self, keys: Mapping[str, Any]) -> None:
        for key in self.values.keys() - keys.keys():
            self.values.drop(key)
        for task_id, update in self.done.items():
            if any(key not in keys for key, _ in pairs(update)):
                self.done[task_id] = folded([{key: value} for key, value in pairs(update) if key in keys])

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
        changed = self._merge(in_order(self.tasks, self.done), body)
        self.last_nodes = tuple([task.node for task in self.tasks])
        self._plan(row, body)
        return changed

    def _input(self, row: Any, body: Body) -> bool:
        self._merge([body.get("update")], body)
        self.last_nodes = (START,)
        self._plan(row, body)
        return True

    def _update(self, row: Any, body: Body) -> bool:
        changed = self._merge([*in_order(self.tasks, self.done), body.get("update")], body)
        self.last_nodes = (row.node,) if row.node else tuple(body.get("nodes", ()))
        paused = self.paused
        self._plan(row, body)
        self.paused = paused  # who paused has looked: an update is why one pauses
        self.asked = _asked_before(row.step, body["next"])
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
        if "apply" not in body and "results" not in body:  # each write replaces the value
            replaced = [pair for update in updates for pair in pairs(update)]
            for key, write in replaced:
                self.values.set(key, plain(write))
            return bool(replaced)
        operations, results = body.get("apply", _NOTHING), body.get("results", _NOTHING)
        written = by_key(updates)
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
        self.asked = {}
        self.calls = {}
        self.children = {}


class Stand(NamedTuple):
    """Where a thread stood, as far as a StateSnapshot shows it. The fields are those of `Position`."""

    thread_id: str
    step: int
    parent: tuple[str, int] | None
    kind: str
    created_at: str
    superstep: int
    run_id: str
    run: Mapping[str, Any]
    values: Mapping[str, Any]
    tasks: tuple[Task, ...]
    next: tuple[str, ...]
    done: Mapping[str, Update]
    errors: Mapping[str, Failure]
    questions: Mapping[str, list[Question]]
    children: Mapping[str, Mapping[str, Child]]


class Later:
    """What has become of a barrier's tasks: their results, errors and questions, from rows that came after it."""

    __slots__ = ("children", "done", "errors", "questions")

    def __init__(self, barrier: Position) -> None:
        self.done: Mapping[str, Update] = {}
        self.errors: Mapping[str, Failure] = {}
        self.questions: Mapping[str, list[Question]] = {}
        self.children: Mapping[str, Mapping[str, Child]] = {}
        self.note(barrier)

    def note(self, position: Position) -> None:
        """Add the row that `position` has just applied; not that of the next barrier, which `close` adds."""
        if position.done:
            self.done = {**self.done, **position.done}
        if position.errors:
            self.errors = {**self.errors, **position.errors}
        if position.questions:
            self.questions = {**self.questions, **position.questions}
        if position.children:
            self.children = {**self.children, **position.children}

    def close(self, row: Any, body: Body) -> None:
        """Add the row of the superstep's last task."""
        if row.kind != "task":
            return
        self.done = {**self.done, row.task: body.get("update")}
        if "below" in body:
            known = _noted(row, body["below"])
            self.children = {**self.children, row.task: {**self.children.get(row.task, _NOTHING), **known}}


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
    for tasks in (likely, position.tasks):
        for task in tasks:
            if task.id == task_id:  # an error handler stands in for its node
                return task if task.node == node else task._replace(node=node)
    return Task(task_id, node, ())


def _renamed(ids: Mapping[str, str], task: str) -> str:
    """A task's id, or that of a call below it, with the task's new id."""
    top, slash, rest = task.partition("/")
    return f"{ids[top]}{slash}{rest}"


def _aimed(nodes: Mapping[str, str], target: str | Send) -> str | Send:
    if isinstance(target, Send):
        return Send(nodes.get(target.node, target.node), target.arg)
    return nodes.get(target, target)


def in_order(tasks: Sequence[Task], done: Mapping[str, Update]) -> list[Update]:
    """Finished tasks' updates in task order, so that the state does not depend on who was first."""
    if len(done) == 1:
        return [*done.values()]
    return [done[task.id] for task in tasks if task.id in done]


def plain(write: Any) -> Any:
    """The value that a write to a channel without a reducer gives it."""
    return write.value if type(write) is Overwrite else write


def by_key(updates: Sequence[Update]) -> dict[str, list[Any]]:
    if len(updates) == 1 and type(first := updates[0]) is dict:
        return {key: [value] for key, value in first.items()}
    writes: dict[str, list[Any]] = {}
    for update in updates:
        for key, value in pairs(update):
            writes.setdefault(key, []).append(value)
    return writes


def folded(updates: list[dict[str, Any]]) -> Update:
    """One dict if no key is written twice, as LangGraph shows it; else all of them."""
    if not updates:
        return None
    merged = {key: value for update in updates for key, value in update.items()}
    return merged if len(merged) == sum(map(len, updates)) else updates


def branch_to(name: str) -> str:
    """LangGraph's name for it."""
    return f"branch:to:{name}"
