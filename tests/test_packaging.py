"""What people install: a complete sdist, and a wheel built from it with the library and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tomllib
from importlib.metadata import PathDistribution
from pathlib import Path
from zipfile import ZipFile

import pytest

import durable_graph
from durable_graph import errors

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and with the wheel that was built from the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def installed(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked as an installer does it."""
    folder = tmp_path_factory.mktemp("site")
    with ZipFile(next(dist.glob("*.whl"))) as wheel:
        wheel.extractall(folder)
    return folder


def files(folder: Path, name: str = ".") -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in (folder / name).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }


def test_the_wheel_holds_the_library_and_the_migrations(installed: Path) -> None:
    migrations = {f"durable_graph/{name}" for name in files(ROOT, "migrations")}
    held = {name for name in files(installed) if ".dist-info/" not in name}
    assert held == files(ROOT, "durable_graph") | migrations
    assert "durable_graph/py.typed" in held
    assert "durable_graph/migrations/env.py" in held


def test_the_sdist_can_be_built_and_tested(dist: Path) -> None:
    with tarfile.open(next(dist.glob("*.tar.gz"))) as sdist:
        held = {name.partition("/")[2] for name in sdist.getnames()}
    assert files(ROOT, "tests") | files(ROOT, "examples") <= held
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", ".ci/run"} <= held


def test_the_metadata(installed: Path) -> None:
    metadata = PathDistribution(next(installed.glob("*.dist-info"))).metadata
    assert (metadata["Name"], metadata["Version"]) == ("durable-graph", PROJECT["version"])
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.11"
    extras = ["bench", "dask", "dev", "encryption", "langchain", "otel", "png", "postgres", "server", "workers"]
    assert metadata.get_all("Provides-Extra") == extras


def test_the_command(installed: Path) -> None:
    (command,) = PathDistribution(next(installed.glob("*.dist-info"))).entry_points
    assert (command.group, command.name) == ("console_scripts", "durable-graph")
    assert callable(command.load())


def test_the_installed_package_works_alone(installed: Path, tmp_path: Path) -> None:
    script = "import durable_graph as d; print(d.__file__, getattr(d, '__version__', ''), sep='\\n')"
    alone = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=alone, stdout=subprocess.PIPE, text=True, check=True
    )
    file, version = done.stdout.splitlines()
    assert Path(file).is_relative_to(installed)
    assert version in ("", PROJECT["version"])


def test_every_error_is_a_public_name() -> None:
    """Whatever is raised can be named in an `except` clause."""
    raised = {
        name for name, thing in vars(errors).items() if isinstance(thing, type) and thing.__module__ == errors.__name__
    }
    signals = {"GraphBubbleUp", "ParentCommand"}  # meant for the engine
    assert raised - signals <= set(durable_graph.__all__)
