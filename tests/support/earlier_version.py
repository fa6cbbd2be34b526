"""What an earlier version left behind: its database's schema, its runner image, its process."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from orchestrator.store.schema import MIGRATIONS

_HERE = Path(__file__).resolve().parents[2]


def bring_back(database: Path, version: int) -> None:
    """Make a database that nobody uses one of an earlier schema, with the rows that fit it."""
    old = database.with_name("earlier.sqlite3")
    with closing(sqlite3.connect(old, isolation_level=None)) as db:
        for script in MIGRATIONS[:version]:
            db.executescript(script)
        # What a migration put there comes with the rows.
        db.execute("ATTACH ? AS new", (str(database),))
        (application,) = db.execute("PRAGMA new.application_id").fetchone()
        for table in _tables(db):
            columns = sorted(_columns(db, "main", table) & _columns(db, "new", table))
            names = ", ".join(columns)
            db.execute(f"DELETE FROM main.{table}")
            db.execute(f"INSERT INTO main.{table} ({names}) SELECT {names} FROM new.{table}")
        db.execute(f"PRAGMA user_version = {version}")
        db.execute(f"PRAGMA application_id = {application}")
    for suffix in ("-wal", "-shm"):
        database.with_name(database.name + suffix).unlink(missing_ok=True)
    old.chmod(0o600)
    old.replace(database)


def make_earlier_program(folder: Path) -> Path:
    """This program with a runner image of another version; what PYTHONPATH has to name."""
    for name in ("orchestrator", "runner-image"):
        shutil.copytree(_HERE / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shim = folder / "runner-image" / "shim" / "__init__.py"
    shim.write_text(f"{shim.read_text()}\n# of an earlier version\n")
    return folder


def _tables(db: sqlite3.Connection) -> list[str]:
    rows = db.execute(
        "SELECT name FROM main.sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' "
        "ESCAPE '\\'"
    )
    return [name for (name,) in rows.fetchall()]


def _columns(db: sqlite3.Connection, schema: str, table: str) -> set[str]:
    rows = db.execute("SELECT name FROM pragma_table_info(?, ?)", (table, schema))
    return {name for (name,) in rows.fetchall()}
