"""The PostgreSQL process that the e2e tests use."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy

from dev.airflow.postgres import PostgresProcess


@pytest.mark.parametrize("end", [PostgresProcess.kill, PostgresProcess.stop], ids=["killed", "stopped"])
def test_committed_rows_survive_a_restart(end: Callable[[PostgresProcess], None]) -> None:
    with PostgresProcess() as server:
        database = sqlalchemy.create_engine(server.url)
        with database.begin() as connection:
            connection.execute(sqlalchemy.text("CREATE TABLE saved AS SELECT generate_series(1, 100)"))
        busy = [database.connect() for _ in range(3)]
        end(server)
        assert not server.running
        server.start()
        database.dispose()
        with database.connect() as connection:
            assert connection.execute(sqlalchemy.text("SELECT count(*) FROM saved")).scalar() == 100
            # Enough work for the system's clock ticks of 10 ms.
            connection.execute(sqlalchemy.text("SELECT count(*) FROM generate_series(1, 3000000)"))
            assert server.processor_seconds() > 0
        assert server.running
        for connection in busy:
            connection.invalidate()
        database.dispose()
