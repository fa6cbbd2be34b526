"""SQLite: schema, migrations, and the transactions of docs/architecture.md §3.

Owns the database file.
"""
