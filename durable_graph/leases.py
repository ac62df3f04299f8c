"""Who runs a thread: the owner of a lease, and whether that owner is still alive.

An owner is a text that a person can read: host, boot, process, start time of the process, run. On the same host
the operating system says at once whether that process still exists; of other hosts only the lease's expiry tells.
Expiry is judged by the clock of whoever asks: clocks may differ by SECONDS less twice the beat's interval.
"""

from __future__ import annotations

import os
import socket
import threading
from functools import lru_cache
from pathlib import Path

SECONDS = 60.0  # after so long without a renewal a lease is over; `beat.interval` is a third: two may fail

FIRST_PID_NAMESPACE = "4026531836"  # the kernel's PROC_PID_INIT_INO: that of processes in no container

_held: set[str] = set()  # owners of the runs of this very process
_dropped: dict[
    str, str
] = {}  # of these, async ones that nobody iterates any more and that are about to end: their threads
_lock = threading.RLock()  # re-entrant: a generator that is collected while we hold it lets its lease go


def hold(run_id: str) -> str:
    """The owner text for a run that begins here. Give it to `let_go` when the run ends."""
    owner = f"{_this_process()}/{run_id}"
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
    if owner.startswith(f"{_this_process()}/"):
        return is_held(owner)
    return owner.startswith(f"{_process(number)}/")


def is_held(owner: str) -> bool:
    """Whether the owner is a run that is under way in this process."""
    return owner in _held


@lru_cache(maxsize=1)
def _this_process() -> str:
    return _process(os.getpid())


def _process(pid: int) -> str:
    return f"{_host()}/{_boot()}/{pid}/{_started(pid)}"


@lru_cache(maxsize=1)
def _host() -> str:
    """Containers that share their host's name do not see each other's processes, so they count as other hosts."""
    name = socket.gethostname().replace("/", "_") or "localhost"
    try:
        space = str(Path("/proc/self/ns/pid").readlink()).strip("pid:[]")
    except OSError:
        return name
    return name if space == FIRST_PID_NAMESPACE else f"{name}+{space}"


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


def _in_child() -> None:
    """After a fork(): what came along is the parent's."""
    global _lock
    _lock = threading.RLock()
    _held.clear()
    _dropped.clear()
    _this_process.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
