"""Imports go down only.

Every import counts: at the top of a file, inside a function, for types alone. A module imports library
modules of lower floors only, so there are no cycles, and files on one floor do not know each other. To add a
module, put it on the lowest floor of the tables below that its imports allow.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WINDOW = "durable_graph"  # the package itself; its modules go by their names without this prefix

FLOORS = (  # lowest first
    {"core", "errors", "offload", "store.engines", "store.texts", "store.version"}
    | {"codec.plain", "core.edge", "core.layout", "core.paper"},
    {"core.address", "core.chain", "core.channels", "core.config", "core.cursor", "core.difference", "core.png"}
    | {"codec.labels", "enqueue", "store.partitions"}
    | {"core.times", "crew", "langchain", "leases", "limits", "store.address", "store.line", "store.wire"},
    {"codec.kind", "core.tokens"},
    {"codec.enums", "codec.sealed", "codec.shapes", "codec.unregistered", "core.schema"},
    {"codec.moments", "core.model", "store.tables"},
    {"codec.builtin"},
    {"codec.reading", "codec.records"},
    {"codec.registered", "codec.watch"},
    {"codec.hooks", "codec.mentioned", "codec.refusing"},
    {"codec.writing"},
    {"codec.locating"},
    {"codec"},
    {"core.position", "core.runtime", "encryption", "store", "store.database", "store.statements"} | {"core.svg"},
    {"core.effects", "core.output", "core.picture", "core.shape", "core.verify", "messages"}
    | {"store.postgres", "store.sqlite"},
    {"core.changes", "core.planner", "store.databases"},
    {"cache", "core.caching", "core.export", "core.history", "core.projection"},
    {"core.standing", "core.telling"},
    {"core.barriers"},
    {"core.task", "core.timeline", "core.rows", "inbox", "store.memory", "store.migrate", "store.sql"},
    {"core.gantt", "core.jobs", "core.stats", "transactions"},
    {"core.entry"},
    {"core.run"},
    {"parcels"},
    {"executors"},
    {"drivers"},
    {"adrivers"},
    {"beat", "prune", "recovery", "unfinished", "watch"},
    {"search", "session", "spans"},
    {"opening"},
    {"states"},
    {"looking"},
    {"log"},
    {"doctor", "meters", "submission"},
    {"compiled"},
    {"functional", "graph", "tracing", "workers.plan"},
    {"testing", "workers.turn"},
    {"workers.staff"},
    {"workers.jobs", "workers.rescue", "workers.sqlite"},
    {"workers.postgres"},
    {"workers"},
    {WINDOW},
    {"server.plain", "server.inspector.values", "server.inspector.what_ran"},
    {"server.inspector.told"},
    {"server.problems"},
    {"server.shapes", "server.guard", "server.events"},
    {"server.inside"},
    {"server.hub"},
    {"server.runs"},
    {"server.streams"},
    {"server.house"},
    {"server.endpoints", "server.shown"},
    {"server.openapi", "server.about", "server.assistants", "server.running"},
    {"server.threads", "server.inspector.reading"},
    {"server.inspector.acting", "server.inspector.live"},
    {"server.inspector"},
    {"server.app"},
    {"server"},
    {"cli.show"},
    {"cli.ending", "cli.tell"},
    {"cli.options", "cli.target"},
    {"cli.runner"},
    {"cli.changing", "cli.drawing", "cli.keeping", "cli.reading", "cli.running", "cli.setup", "cli.watching"}
    | {"cli.serving", "cli.working"},
    {"cli"},
)

# The core is pure: it asks for what it needs by yielding effects. `store` is the protocol and its rows.
CORE_KNOWS = {"codec", "errors", "limits", "store"}
IMPURE = {
    "asyncio", "concurrent", "io", "logging", "multiprocessing", "os", "pathlib", "queue", "random",
    "secrets", "shutil", "signal", "socket", "sqlite3", "subprocess", "tempfile", "threading", "time", "uuid",
}  # fmt: skip

ONLY_IN = {  # what is no part of Python, and asyncio: the modules that may import it
    "alembic": {"store.migrate"},
    "asyncio": {
        "adrivers",
        "cli.runner",
        "cli.working",
        "compiled",
        "drivers",
        "offload",
        "session",
        "submission",
        "testing",
    }
    | {"workers", "workers.jobs", "workers.postgres", "workers.rescue", "workers.sqlite", "workers.staff"}
    | {"server.endpoints", "server.house", "server.hub", "server.inspector.live", "server.running", "server.runs"},
    "click": {"cli", "cli.changing", "cli.drawing", "cli.ending", "cli.keeping", "cli.options", "cli.reading"}
    | {"cli.runner", "cli.running", "cli.serving", "cli.setup", "cli.show", "cli.target", "cli.watching"}
    | {"cli.working"},
    "cryptography": {"encryption"},
    "langchain_core": {"langchain"},
    "opentelemetry": {"meters", "spans", "tracing"},
    "orjson": {"core.chain", "core.export", "encryption"}
    | {"codec", "codec.locating", "codec.reading", "codec.writing"}
    | {"server.endpoints", "server.plain", "server.shown", "server.threads"},
    "procrastinate": {"enqueue", "workers.jobs", "workers.postgres", "workers.rescue"},
    "psycopg": {"enqueue", "store.postgres", "store.wire"},
    "psycopg_pool": {"workers.jobs"},
    "pydantic": {"core.schema"},  # for a schema that is made with it
    "resvg_py": {"core.png"},
    "rich": {"cli.show"},
    "starlette": {"server", "server.app", "server.endpoints", "server.guard", "server.problems"}
    | {"server.inspector", "server.inspector.live", "server.inspector.reading", "server.running", "server.threads"},
    "uvicorn": {"cli.serving"},
    "sqlalchemy": {"core.runtime", "enqueue", "store", "store.sql", "submission"}  # for types alone
    | {"inbox"}
    | {"store.address", "store.database", "store.engines", "store.migrate", "store.postgres", "store.sqlite"}
    | {"store.statements", "store.tables"},
}
PYTHON = sys.stdlib_module_names | {"annotationlib"}  # 3.14 has it
# importing stays quick
NOT_AT_START = {"alembic", "click", "cryptography", "langchain_core", "psycopg", "pydantic", "resvg_py", "rich"}
NOT_AT_START |= {"cloudpickle", "distributed", "opentelemetry", "procrastinate", "sqlalchemy", "starlette", "uvicorn"}

# What stands above the shop window uses the names in it, and these. Upgrading a schema is for operators, not programs.
# The server has to know what a run emits before it is shown, and where in the log that stands.
BACK_DOORS = {
    "cli.options": {"store.migrate"},
    "cli.setup": {"doctor", "store.migrate", "workers"},
    "cli.working": {"workers"},
    "server.inside": {"core.cursor", "core.effects", "core.history", "core.position", "core.projection", "core.telling"}
    | {"core.times"}
    | {"drivers", "leases", "opening", "recovery", "session", "store"},
    "server.events": {"core.cursor"},
    "server.hub": {"core.cursor", "core.effects", "core.history"},
    "server.runs": {"core.effects"},
    "server.streams": {"core.cursor", "core.effects", "core.history"},
    "server.running": {"core.cursor", "core.projection"},
    "server.threads": {"core.cursor"},
    "server.shown": {"core.picture"},
}


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted((ROOT / WINDOW).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[short(".".join(parts).removesuffix(".__init__"))] = path
    return found


def short(module: str) -> str:
    return module.removeprefix(f"{WINDOW}.")


MODULES = modules()
FLOOR_OF = {module: height for height, floor in enumerate(FLOORS) for module in floor}
CORE = [module for module in MODULES if module.split(".")[0] == "core"]
ABOVE_THE_WINDOW = {
    **{m: path for m, path in MODULES.items() if FLOOR_OF.get(m, 0) > FLOOR_OF[WINDOW]},
    **{f"examples/{path.name}": path for path in sorted((ROOT / "examples").rglob("*.py"))},
}
each_module = pytest.mark.parametrize("module", MODULES)


def imports(path: Path) -> Iterator[tuple[str, str | None]]:
    """(module, name) of every import statement; no name for `import module`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((origin(node, path), alias.name) for alias in node.names)


def origin(node: ast.ImportFrom, path: Path) -> str:
    if not node.level:
        return node.module or ""
    package = path.relative_to(ROOT).parts[: -node.level]
    return ".".join([*package, *([node.module] if node.module else [])])


def library_imports(path: Path) -> set[str]:
    """The library's modules that a file names, as in the tables."""
    found = set()
    for module, name in imports(path):
        if module.split(".")[0] == WINDOW:
            submodule = short(f"{module}.{name}")
            found.add(submodule if submodule in MODULES else short(module))
    return found


def outside_imports(path: Path) -> set[str]:
    """The top-level names of all other imports."""
    return {module.split(".")[0] for module, _ in imports(path)} - {WINDOW, "__future__"}


@each_module
def test_imports_go_down(module: str) -> None:
    assert module in FLOOR_OF, f"{module} is on no floor: add it to FLOORS, as low as its imports allow"
    known = library_imports(MODULES[module])
    upward = {other for other in known if FLOOR_OF.get(other, len(FLOORS)) >= FLOOR_OF[module]}
    assert not upward, f"{module} (floor {FLOOR_OF[module]}) imports {sorted(upward)}, which are not below it"


def test_floors_name_only_modules_that_exist() -> None:
    assert sorted(FLOOR_OF.keys() - MODULES.keys()) == [], "take them out of FLOORS"


@each_module
def test_what_is_imported_from_outside(module: str) -> None:
    for name in sorted(outside_imports(MODULES[module])):
        if name in ONLY_IN:
            assert module in ONLY_IN[name], f"{module} imports {name}, only {sorted(ONLY_IN[name])} may"
        else:
            assert name in PYTHON, f"{module} imports {name}: add it to ONLY_IN"


@pytest.mark.parametrize("module", CORE)
def test_the_core_is_pure(module: str) -> None:
    path = MODULES[module]
    strangers = library_imports(path) - CORE_KNOWS - set(CORE)
    assert not strangers, f"{module} imports {sorted(strangers)}"
    assert not outside_imports(path) & IMPURE, f"{module} imports what has effects: yield an effect instead"


def test_the_window_only_shows() -> None:
    docstring, *body = ast.parse(MODULES[WINDOW].read_text(encoding="utf-8")).body
    assert isinstance(docstring, ast.Expr), "durable_graph/__init__.py begins with a docstring"
    assigned = []
    for node in body:
        if isinstance(node, ast.Assign):
            assigned += [ast.unparse(target) for target in node.targets]
        else:
            assert isinstance(node, ast.ImportFrom), f"line {node.lineno} does something"
    assert set(assigned) - {"__version__"} == {"__all__"}


@pytest.mark.parametrize("user", ABOVE_THE_WINDOW)
def test_public_names_are_enough(user: str) -> None:
    import durable_graph

    path = ABOVE_THE_WINDOW[user]
    inside = library_imports(path) - {WINDOW} - set(ABOVE_THE_WINDOW) - BACK_DOORS.get(user, set())
    assert not inside, f"{user} reaches into {sorted(inside)}"
    names = {name for module, name in imports(path) if module == WINDOW and name}
    assert names <= set(durable_graph.__all__), f"{user} imports names that are not public"


def test_migrations_know_only_the_tables() -> None:
    for path in sorted((ROOT / "migrations").rglob("*.py")):
        allowed = {"store.tables", "store.version"} if path.name == "env.py" else set()  # a revision stays as it was
        assert library_imports(path) <= allowed, path


def test_importing_is_light_and_does_nothing(tmp_path: Path) -> None:
    script = """if True:
        import sys, threading, durable_graph
        heavy = set(sys.argv[1:]) & set(sys.modules)
        assert not heavy, heavy
        assert threading.active_count() == 1
    """
    subprocess.run([sys.executable, "-c", script, *sorted(NOT_AT_START)], cwd=tmp_path, check=True)
    assert not list(tmp_path.iterdir())
