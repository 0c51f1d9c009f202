from __future__ import annotations

import multiprocessing
import threading
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from pysqlite3 import dbapi2 as sqlite
from sqlalchemy import Engine, event, insert, select, text
from sqlalchemy.exc import OperationalError

from promptreel.errors import BadConfiguration, DatabaseBusy
from promptreel.jobs.database import migrate, open_database, read_transaction, refuse_affected_sqlite, write_transaction
from promptreel.jobs.tables import metadata, workers
from tests.jobs.factories import START

WORKER = {"id": "w", "device": "cpu", "seconds_per_unit": None, "last_seen": START}


@pytest.mark.parametrize(
    "version",
    [(3, 6, 23), (3, 7, 0), (3, 40, 1), (3, 44, 5), (3, 45, 0), (3, 50, 6), (3, 51, 0), (3, 51, 2)],
)
def test_affected_sqlite_is_refused(version: tuple[int, int, int]) -> None:
    with pytest.raises(BadConfiguration, match="WAL-reset"):
        refuse_affected_sqlite(version)


@pytest.mark.parametrize("version", [(3, 44, 6), (3, 50, 7), (3, 51, 3), (3, 52, 0), (3, 53, 4), (4, 0, 0)])
def test_fixed_sqlite_is_accepted(version: tuple[int, int, int]) -> None:
    refuse_affected_sqlite(version)


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///:memory:", "mysql://host/name", "sqlite+aiosqlite:////x.db", "no address", ""]
)
def test_address_that_is_no_shared_file_is_refused(url: str) -> None:
    with pytest.raises(BadConfiguration, match="sqlite:////"):
        open_database(url)


def test_missing_folder_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match="absent"):
        open_database(f"sqlite:///{tmp_path}/absent/x.db")


@pytest.mark.parametrize(
    "name", ["100%20", "a?b=c", "a#b", "?mode=memory", "file:x", ":memory:", "a&b;c@d:e", "é\n\udcff", " ~ "]
)
def test_folder_may_be_called_anything(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()

    engine = open_database(folder / "promptreel.db")
    migrate(engine)
    engine.dispose()

    assert [path.name for path in folder.iterdir()] == ["promptreel.db"]


def test_file_of_another_kind_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "holiday.db"
    path.write_text("Dear all, " * 100)

    with pytest.raises(BadConfiguration, match=r"holiday\.db"):
        open_database(f"sqlite:///{path}")

    assert path.read_text() == "Dear all, " * 100


def test_connections_of_many_threads_are_kept(engine: Engine) -> None:
    """Opening one takes longer than most of what is asked of it."""
    opened: list[object] = []
    event.listen(engine, "connect", lambda connection, _record: opened.append(connection))
    for _ in range(2):
        with ExitStack() as at_once:
            for _ in range(12):
                at_once.enter_context(read_transaction(engine))

    assert len(opened) == 12 - 1  # one was opened with the database


def test_connections_are_durable_and_checked(engine: Engine) -> None:
    with engine.connect() as connection:
        pragmas = {
            name: connection.execute(text(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
        version = connection.execute(text("SELECT sqlite_version()")).scalar()

    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
    assert version == sqlite.sqlite_version


def test_read_transaction_sees_one_state_while_others_write(engine: Engine) -> None:
    count = select(workers.c.id)
    with read_transaction(engine) as reading:
        before = reading.execute(count).all()
        with write_transaction(engine) as writing:
            writing.execute(insert(workers).values(WORKER))
        during = reading.execute(count).all()
    with read_transaction(engine) as reading:
        after = reading.execute(count).all()

    assert (len(before), len(during), len(after)) == (0, 0, 1)


def test_read_transaction_cannot_write_but_its_connection_can_later(engine: Engine) -> None:
    with pytest.raises(OperationalError, match="readonly"), read_transaction(engine) as connection:
        connection.execute(insert(workers).values(WORKER))

    with write_transaction(engine) as connection:
        connection.execute(insert(workers).values(WORKER))


def test_write_transaction_that_raises_leaves_nothing(engine: Engine) -> None:
    with pytest.raises(KeyError), write_transaction(engine) as connection:  # noqa: PT012 - the block is what is tested
        connection.execute(insert(workers).values(WORKER))
        raise KeyError

    with read_transaction(engine) as connection:
        assert connection.execute(select(workers)).all() == []


def test_second_writer_waits_for_the_first(engine: Engine) -> None:
    order: list[str] = []

    def write_second() -> None:
        with write_transaction(engine):
            order.append("second")

    with write_transaction(engine):
        thread = threading.Thread(target=write_second)
        thread.start()
        thread.join(timeout=0.05)
        order.append("first")
    thread.join()

    assert order == ["first", "second"]


def test_writer_gives_up_when_the_lock_is_never_let_go(engine: Engine, database_url: str) -> None:
    impatient = open_database(database_url, busy_seconds=0.02)

    with write_transaction(engine), pytest.raises(DatabaseBusy, match="try again"), write_transaction(impatient):
        pass

    with write_transaction(impatient) as connection:
        connection.execute(insert(workers).values(WORKER))
    impatient.dispose()


def schema_of(engine: Engine) -> dict[str, str]:
    with read_transaction(engine) as connection:
        rows = connection.execute(
            text("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name != 'alembic_version'")
        )
        return {name: " ".join(sql.split()) for name, sql in rows}


def test_migrations_make_the_tables_that_the_code_describes(engine: Engine, tmp_path: Path) -> None:
    described = open_database(f"sqlite:///{tmp_path}/described.db")
    with write_transaction(described) as connection:
        metadata.create_all(connection)

    assert schema_of(engine) == schema_of(described)
    described.dispose()


def test_migrating_twice_changes_nothing(engine: Engine) -> None:
    before = schema_of(engine)
    with write_transaction(engine) as connection:
        connection.execute(insert(workers).values(WORKER))

    migrate(engine)

    with read_transaction(engine) as connection:
        assert len(connection.execute(select(workers)).all()) == 1
    assert schema_of(engine) == before


def open_and_migrate(urls: list[str]) -> list[dict[str, str]]:
    schemas = []
    for url in urls:
        engine = open_database(url)
        migrate(engine)
        schemas.append(schema_of(engine))
        engine.dispose()
    return schemas


def test_processes_that_start_at_once_migrate_once(engine: Engine, tmp_path: Path) -> None:
    urls = [f"sqlite:///{tmp_path}/{number}.db" for number in range(5)]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=spawn, initializer=spawn.Barrier(2).wait) as pool:
        schemas = list(pool.map(open_and_migrate, [urls, urls]))

    assert schemas == [[schema_of(engine)] * 5] * 2
