"""Who runs a thread: the owner of a lease, and whether that owner is still alive.

An owner is a text that a person can read: host, boot, process, start time of the process, run. On the same host
the operating system says at once whether that process still exists; of other hosts only the lease's expiry tells.
"""

from __future__ import annotations

import os
import socket
import threading
from functools import lru_cache
from pathlib import Path

_held: set[str] = set()  # owners of the runs of this very process
_dropped: dict[
    str, str
] = {}  # of these, async ones that nobody iterates any more and that are about to end: their threads
_lock = threading.Lock()


def hold(run_id: str) -> str:
    """The owner text for a run that begins here. Give it to `let_go` when the run ends."""
    owner = f"{_process(os.getpid())}/{run_id}"
    with _lock:
        _held.add(owner)
    return owner


def let_go(owner: str) -> None:
    with _lock:
        _held.discard(owner)
        _dropped.pop(owner, None)


def drop(owner: str, thread_id: str) -> None:
    """The consumer of this run is gone without closing it; asyncio is going to."""
    if owner in _held:
        _dropped[owner] = thread_id


def is_ending(thread_id: str) -> bool:
    """Whether a run of this thread was dropped here and has not ended yet."""
    return thread_id in _dropped.values()


def alive(owner: str) -> bool:
    """Whether the owner may still write. Of another host this cannot be known: then yes, until the lease runs out."""
    try:
        host, boot, pid, _, _ = owner.split("/", 4)
        number = int(pid)
    except ValueError:
        return True  # not one of ours: respect it until it runs out
    if host != _host():
        return True
    if boot != _boot():
        return False
    if owner.startswith(f"{_process(os.getpid())}/"):
        return owner in _held
    return owner.startswith(f"{_process(number)}/")


def _process(pid: int) -> str:
    return f"{_host()}/{_boot()}/{pid}/{_started(pid)}"


@lru_cache(maxsize=1)
def _host() -> str:
    return socket.gethostname().replace("/", "_") or "localhost"


@lru_cache(maxsize=1)
def _boot() -> str:
    """Changes with every boot, so that a process id of before cannot be taken for one of now."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]
    except OSError:
        return "-"


def _started(pid: int) -> str:
    """When the process began, in clock ticks since boot: field 22 of /proc/<pid>/stat (proc(5)). "gone" if
    there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "-" if _exists(pid) else "gone"
    return "gone" if fields[0] in "ZX" else fields[19]


def _exists(pid: int) -> bool:
    if not hasattr(os, "kill"):
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True
