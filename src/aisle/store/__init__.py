"""The database: accounts, keys, sessions, predictions, feedback and the audit trail.

`engine.py` opens it, `schema.py` says what is in it, `migrations/` brings an older one up to date, and one
module a subject reads and writes it. Their functions take a connection and never commit: the caller holds the
transaction, so that a change and its audit entry are stored together or not at all.
"""
