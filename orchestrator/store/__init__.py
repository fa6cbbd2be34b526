"""SQLite: schema, migrations, and the transactions of docs/architecture.md ("One message").

Owns the database file.
"""
