"""Runs `programs.py` in fresh processes."""

from __future__ import annotations

import compileall
import json
import os
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

from tests.benchmarks.measure import Figures

ROOT = Path(__file__).parent.parent.parent
PROGRAMS = Path(__file__).with_name("programs.py")


def fresh(job: str, *arguments: object) -> Figures:
    """What the job tells; `until_told` is the time from starting the process until then."""
    _compile()
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-P", str(PROGRAMS), job, *map(str, arguments)]
    begun = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        taken = time.perf_counter() - begun
        error = process.stderr.read()
    if process.returncode != 0:
        raise RuntimeError(f"{job} {arguments} failed:\n{error}")
    return {**json.loads(line), "until_told": taken}


@cache
def _compile() -> None:
    """As pip does with a package that it installs, so that no contender is compiled anew in every process: that is what
    happens to a checkout where PYTHONDONTWRITEBYTECODE is set."""
    compileall.compile_dir(ROOT / "durable_graph", quiet=2)
