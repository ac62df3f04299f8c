"""Kill anywhere: a process that ends by SIGKILL before, inside or after any commit, and another one that goes on.

The moments are counted in the drivers of the databases, so they are all there are: see `lives.py`. Whatever the
moment: what was seen has a row, what has a row is not called again, the state at the end is that of a life without a
death, signals and the user's own rows are there once, every log verifies and no lease is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from conftest import engine_url
from sqlalchemy import create_engine, text

from durable_graph.store.sql import SqlStore
from tests.lives import STORIES, End, Life, Lives

WAYS = ("sync", "threads")


@pytest.fixture(scope="module")
def lives() -> Iterator[Lives]:
    lives = Lives()
    yield lives
    lives.close()


class Story:
    """One story on one database, lived through with a death at this or that moment, each time in another thread."""

    def __init__(self, lives: Lives, name: str, url: str, folder: Path) -> None:
        self.lives, self.name, self.url, self.folder = lives, name, url, folder
        with closing(SqlStore(url)) as store:
            store.threads()  # makes the tables
        self.engine = create_engine(engine_url(url))
        with self.engine.begin() as connection:
            connection.execute(text("CREATE TABLE ledger (thread_id VARCHAR(100), what VARCHAR(100))"))
        self.whole = self.life("whole", 0)

    def life(self, thread: str, number: int, die_at: int | None = None, way: str = "sync") -> End:
        folder = self.folder / thread
        folder.mkdir(exist_ok=True)
        return self.lives.live(Life(self.name, self.url, thread, str(folder), number, die_at, way))

    def die(self, moments: list[int], way: str = "sync") -> bool:
        """Die at these moments, a life each, then live to the end. False if none of them came."""
        thread = f"{way}-{'-'.join(map(str, moments))}"
        ends = [self.life(thread, number, moment, way) for number, moment in enumerate(moments)]
        other = WAYS[way == "sync"]  # who goes on does so in the other way
        end = self.life(thread, len(moments), way=other)
        assert end.values == self.whole.values
        if self.name == "paying":
            assert self.ledger(thread) == [*"abcd"]
        return any(each.killed for each in ends)

    def ledger(self, thread: str) -> list[str]:
        query = text("SELECT what FROM ledger WHERE thread_id = :thread ORDER BY what")
        with self.engine.connect() as connection:
            return list(connection.execute(query, {"thread": thread}).scalars())


@pytest.fixture
def story(lives: Lives, database_url: str, tmp_path: Path) -> Iterator[Callable[[str], Story]]:
    made: list[Story] = []

    def tell(name: str) -> Story:
        made.append(Story(lives, name, database_url, tmp_path))
        return made[-1]

    yield tell
    for each in made:
        each.engine.dispose()


@pytest.mark.parametrize("name", STORIES)
def test_a_kill_at_some_moments(story: Callable[[str], Story], name: str) -> None:
    """One death, and one after the other."""
    told = story(name)
    moments = len(told.whole.moments)
    assert moments >= 10
    assert told.life("whole", 1).moments == (), "a thread that has ended is left as it is"
    place = list(STORIES).index(name)  # other places in each story
    assert told.die([moments * (place % 5 + 3) // 9])
    assert told.die([moments // 3, place % 4 + 1], "threads")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", STORIES)
def test_a_kill_at_every_moment(story: Callable[[str], Story], name: str) -> None:
    told, moment = story(name), 0
    while told.die([moment], WAYS[moment % 2]):
        moment += 1
    assert moment >= 10


def test_a_kill_at_every_moment_of_opening_a_new_file(lives: Lives, tmp_path: Path) -> None:
    """Tables that are half made are no tables, and a file without any is a new one."""

    def life(name: str, number: int, die_at: int | None = None) -> End:
        (tmp_path / name).mkdir(exist_ok=True)
        return lives.live(Life("linear", f"sqlite:///{tmp_path}/{name}.db", "t", str(tmp_path / name), number, die_at))

    whole = life("whole", 0)
    opening = whole.moments.index("after COMMIT") + 1
    assert whole.moments[:opening].count("before CREATE") >= 4
    for moment in range(opening):
        assert life(str(moment), 0, moment).killed
        assert life(str(moment), 1).values == whole.values
