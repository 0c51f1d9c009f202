from __future__ import annotations

import multiprocessing
import os
import resource
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from pysqlite3 import dbapi2 as sqlite
from sqlalchemy import Connection, event, insert, select, text
from sqlalchemy.exc import OperationalError

from promptreel.errors import BadConfiguration, DatabaseBusy, DiskFull
from promptreel.jobs.database import (
    Database,
    migrate,
    open_database,
    read_transaction,
    refuse_affected_sqlite,
    write_transaction,
)
from promptreel.jobs.deliveries import DeliveryStore
from promptreel.jobs.store import JobStore
from promptreel.jobs.tables import metadata, workers
from promptreel.version import installed_version
from tests.jobs.factories import START, WEBHOOK, full_database, make_new_job, make_result

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
def test_address_that_is_not_a_shared_file_is_refused(url: str) -> None:
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

    database = open_database(folder / "promptreel.db")
    migrate(database)
    database.dispose()

    assert [path.name for path in folder.iterdir()] == ["promptreel.db"]


def test_file_of_another_kind_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "holiday.db"
    path.write_text("Dear all, " * 100)

    with pytest.raises(BadConfiguration, match=r"holiday\.db"):
        open_database(f"sqlite:///{path}")

    assert path.read_text() == "Dear all, " * 100


def test_connections_of_many_threads_are_kept(database: Database) -> None:
    """Opening a connection takes longer than most queries."""
    opened: list[object] = []
    event.listen(database, "connect", lambda connection, _record: opened.append(connection))
    for _ in range(2):
        with ExitStack() as at_once:
            for _ in range(12):
                at_once.enter_context(read_transaction(database))

    assert len(opened) == 12 - 1  # one was opened with the database


def test_connections_are_durable_and_checked(database: Database) -> None:
    with database.connect() as connection:
        pragmas = {
            name: connection.execute(text(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
        version = connection.execute(text("SELECT sqlite_version()")).scalar()

    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
    assert version == sqlite.sqlite_version


def test_read_transaction_sees_one_snapshot_while_others_write(database: Database) -> None:
    count = select(workers.c.id)
    with read_transaction(database) as reading:
        before = reading.execute(count).all()
        with write_transaction(database) as writing:
            writing.execute(insert(workers).values(WORKER))
        during = reading.execute(count).all()
    with read_transaction(database) as reading:
        after = reading.execute(count).all()

    assert (len(before), len(during), len(after)) == (0, 0, 1)


def test_read_transaction_cannot_write_but_its_connection_can_later(database: Database) -> None:
    with pytest.raises(OperationalError, match="readonly"), read_transaction(database) as connection:
        connection.execute(insert(workers).values(WORKER))

    with write_transaction(database) as connection:
        connection.execute(insert(workers).values(WORKER))


def test_write_transaction_that_raises_leaves_nothing(database: Database) -> None:
    with pytest.raises(KeyError), write_transaction(database) as connection:  # noqa: PT012 - the block is what is tested
        connection.execute(insert(workers).values(WORKER))
        raise KeyError

    with read_transaction(database) as connection:
        assert connection.execute(select(workers)).all() == []


def test_second_writer_waits_for_the_first(database: Database) -> None:
    order: list[str] = []

    def write_second() -> None:
        with write_transaction(database):
            order.append("second")

    with write_transaction(database):
        thread = threading.Thread(target=write_second)
        thread.start()
        thread.join(timeout=0.05)
        order.append("first")
    thread.join()

    assert order == ["first", "second"]


def test_writer_gives_up_when_the_lock_is_never_released(database: Database, database_url: str) -> None:
    impatient = open_database(database_url, busy_seconds=0.02)

    with write_transaction(database), pytest.raises(DatabaseBusy, match="try again"), write_transaction(impatient):
        pass

    with write_transaction(impatient) as connection:
        connection.execute(insert(workers).values(WORKER))
    impatient.dispose()


def schema_of(database: Database) -> dict[str, str]:
    with read_transaction(database) as connection:
        rows = connection.execute(
            text("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name != 'alembic_version'")
        )
        return {name: " ".join(sql.split()) for name, sql in rows}


def test_migrations_make_the_tables_that_the_code_describes(database: Database, tmp_path: Path) -> None:
    described = open_database(f"sqlite:///{tmp_path}/described.db")
    with write_transaction(described) as connection:
        metadata.create_all(connection)

    assert schema_of(database) == schema_of(described)
    described.dispose()


def test_migrating_twice_changes_nothing(database: Database) -> None:
    before = schema_of(database)
    with write_transaction(database) as connection:
        connection.execute(insert(workers).values(WORKER))

    migrate(database)

    with read_transaction(database) as connection:
        assert len(connection.execute(select(workers)).all()) == 1
    assert schema_of(database) == before


def open_and_migrate(urls: list[str]) -> list[dict[str, str]]:
    schemas = []
    for url in urls:
        database = open_database(url)
        migrate(database)
        schemas.append(schema_of(database))
        database.dispose()
    return schemas


@pytest.mark.slow
def test_processes_that_start_at_once_migrate_once(database: Database, tmp_path: Path) -> None:
    urls = [f"sqlite:///{tmp_path}/{number}.db" for number in range(5)]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=spawn, initializer=spawn.Barrier(2).wait) as pool:
        schemas = list(pool.map(open_and_migrate, [urls, urls]))

    assert schemas == [[schema_of(database)] * 5] * 2


def read_one(database: Database) -> object:
    with read_transaction(database) as connection:
        return connection.execute(select(workers)).all()


def write_much(database: Database, *, name: str = "w") -> None:
    with write_transaction(database) as connection:
        connection.execute(insert(workers).values(WORKER | {"id": name, "device": "x" * 100_000}))


def test_current_schema_is_recognized_without_the_write_lock(database: Database, database_url: str) -> None:
    with write_transaction(database):
        impatient = open_database(database_url, busy_seconds=0)
        migrate(impatient)
        assert read_one(impatient) == []
    impatient.dispose()


def test_full_disk_raises_disk_full_and_changes_nothing(database: Database) -> None:
    """SQLite's own limit on the file's size makes the error of a full disk."""
    full = full_database(database.url.render_as_string())
    with pytest.raises(DiskFull, match="Make room"):
        write_much(full)
    assert read_one(full) == []
    full.dispose()

    write_much(database)
    assert len(read_one(database)) == 1


@contextmanager
def file_size_limited(limit: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_disk_error_raises_database_busy(database: Database) -> None:
    with file_size_limited(4096), pytest.raises(DatabaseBusy, match=r"disk I/O error\. Try again later"):
        write_much(database)

    write_much(database)
    assert len(read_one(database)) == 1


def test_file_that_cannot_be_opened_any_more_raises_database_busy(database: Database, database_url: str) -> None:
    path = Path(database_url.removeprefix("sqlite:///"))
    away = path.rename(path.with_name("away.db"))
    path.mkdir()
    with ExitStack() as at_once:
        at_once.enter_context(read_transaction(database))  # the one connection that is open
        with pytest.raises(DatabaseBusy, match="unable to open database file"), read_transaction(database):
            pass
    path.rmdir()
    away.rename(path)

    assert read_one(database) == []


def test_read_only_file_raises_database_busy(database: Database, database_url: str) -> None:
    read_only = open_database(f"{database_url}?mode=ro&uri=true".replace("sqlite:///", "sqlite:///file:"))
    with pytest.raises(DatabaseBusy, match="readonly database"):
        write_much(read_only)
    assert read_one(read_only) == []
    read_only.dispose()


@pytest.mark.parametrize("moment", ["locked", "full"])
def test_temporary_errors_at_the_start_raise_database_busy(database: Database, database_url: str, moment: str) -> None:
    new = f"{database_url}.new"
    with ExitStack() as at_once:
        if moment == "locked":
            holder = sqlite.connect(new.removeprefix("sqlite:///"), isolation_level=None)
            at_once.callback(holder.close)
            holder.execute("BEGIN EXCLUSIVE")
        else:
            at_once.enter_context(file_size_limited(0))
        with pytest.raises(DatabaseBusy):
            open_database(new, busy_seconds=0.02)


def replace_indexes(connection: Connection, *definitions: str) -> None:
    for each in definitions:
        name = each.split("(")[0].split(" ON ")[0]
        connection.execute(text(f"DROP INDEX {name}"))
        connection.execute(text(f"CREATE INDEX {each}"))


def downgrade_to_0008(database: Database) -> None:
    with write_transaction(database) as connection:
        for each in ("TRIGGER jobs_inserted", "TRIGGER jobs_updated", "TRIGGER jobs_deleted", "TABLE changes"):
            connection.execute(text(f"DROP {each}"))
        connection.execute(text("UPDATE alembic_version SET version_num = '0008'"))


def downgrade_to_0007(database: Database) -> None:
    downgrade_to_0008(database)
    with write_transaction(database) as connection:
        connection.execute(text("ALTER TABLE jobs DROP COLUMN report"))
        connection.execute(text("UPDATE alembic_version SET version_num = '0007'"))


def downgrade_to_0006(database: Database) -> None:
    downgrade_to_0007(database)
    with write_transaction(database) as connection:
        connection.execute(text("ALTER TABLE workers DROP COLUMN loaded"))
        connection.execute(text("UPDATE alembic_version SET version_num = '0006'"))


def downgrade_to_0005(database: Database) -> None:
    downgrade_to_0006(database)
    with write_transaction(database) as connection:
        connection.execute(text("ALTER TABLE jobs DROP COLUMN passed_at"))
        connection.execute(text("UPDATE alembic_version SET version_num = '0005'"))


def downgrade_to_0004(database: Database) -> None:
    downgrade_to_0005(database)
    with write_transaction(database) as connection:
        connection.execute(text("DROP TABLE models"))
        connection.execute(text("UPDATE alembic_version SET version_num = '0004'"))


def downgrade_to_0003(database: Database) -> None:
    downgrade_to_0004(database)
    with write_transaction(database) as connection:
        replace_indexes(
            connection,
            "jobs_queued ON jobs (priority, vt, id) WHERE status = 'queued'",
            "jobs_queued_by_batch ON jobs (batch_key, priority, vt, id, cost) WHERE status = 'queued'",
            "jobs_queued_by_api_key ON jobs (api_key_id, batch_key, priority, vt, id, cost) WHERE status = 'queued'",
            "jobs_succeeded_by_model ON jobs (model_id, id) WHERE status = 'succeeded'",
        )
        connection.execute(text("ALTER TABLE jobs DROP COLUMN kind"))
        connection.execute(text("UPDATE alembic_version SET version_num = '0003'"))


def downgrade_to_0002(database: Database) -> None:
    downgrade_to_0003(database)
    with write_transaction(database) as connection:
        replace_indexes(connection, "jobs_succeeded_by_model ON jobs (model_id, finished_at) WHERE status = 'succeeded'")
        connection.execute(text("UPDATE alembic_version SET version_num = '0002'"))


@pytest.mark.parametrize(
    "downgrade",
    [
        downgrade_to_0002,
        downgrade_to_0003,
        downgrade_to_0004,
        downgrade_to_0005,
        downgrade_to_0006,
        downgrade_to_0007,
        downgrade_to_0008,
    ],
)
def test_older_database_with_jobs_in_flight_is_brought_up_to_date(
    database: Database, store: JobStore, downgrade: Callable[[Database], None]
) -> None:
    newest = schema_of(database)
    done, running, waiting = (store.submit(make_new_job(webhook_url=WEBHOOK)).id for _ in range(3))
    finished, _ = store.claim("w") or pytest.fail("nothing to claim")
    store.finish(finished, make_result())
    held, _ = store.claim("w") or pytest.fail("nothing to claim")
    before = [(store.get(job_id), store.list_attempts(job_id)) for job_id in (done, running, waiting)]
    downgrade(database)
    assert schema_of(database) != newest

    migrate(database)

    assert schema_of(database) == newest
    assert [(store.get(job_id), store.list_attempts(job_id)) for job_id in (done, running, waiting)] == before
    assert {job.kind for job in store.list()} == {"video"}
    store.heartbeat(held)
    store.finish(held, make_result())
    taken = store.claim("w") or pytest.fail("nothing to claim")
    assert taken[1].id == waiting
    assert [len(DeliveryStore(database).list(job_id)) for job_id in (done, running, waiting)] == [1, 1, 0]


@pytest.fixture
def usual_rights() -> Iterator[None]:
    """New files may be read by everybody, as on most machines."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def rights_of(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}


def test_files_of_the_database_are_their_owners_alone(tmp_path: Path, usual_rights: None) -> None:
    database = open_database(tmp_path / "x.db")
    migrate(database)
    with database.connect():
        assert rights_of(tmp_path) == {"x.db": 0o600, "x.db-wal": 0o600, "x.db-shm": 0o600}
    database.dispose()


def test_files_that_others_could_read_are_closed_to_them(
    tmp_path: Path, usual_rights: None, caplog: pytest.LogCaptureFixture
) -> None:
    older = open_database(tmp_path / "x.db")
    migrate(older)
    with older.connect():
        for file in tmp_path.iterdir():
            file.chmod(0o644)
        open_database(tmp_path / "x.db").dispose()
        assert rights_of(tmp_path) == {"x.db": 0o600, "x.db-wal": 0o600, "x.db-shm": 0o600}
    older.dispose()
    assert "Now only its owner can" in caplog.text


def test_reading_creates_no_database(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match="There is no database"):
        open_database(tmp_path / "x.db", create=False)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("made_by", "told"), [("9.4.0", "it needs version 9.4.0"), (None, "it needs version later than")])
def test_newer_database_says_which_version_it_needs(tmp_path: Path, made_by: str | None, told: str) -> None:
    database = open_database(tmp_path / "x.db")
    migrate(database)
    with write_transaction(database) as connection:
        assert connection.execute(text("SELECT value FROM facts WHERE name = 'made_by'")).scalar() == installed_version()
        connection.execute(text("UPDATE alembic_version SET version_num = '0900'"))
        connection.execute(text("UPDATE facts SET value = :by WHERE name = 'made_by'"), {"by": made_by or "x"})
        if made_by is None:
            connection.execute(text("DROP TABLE facts"))

    with pytest.raises(BadConfiguration, match=told):
        migrate(database)
    database.dispose()
