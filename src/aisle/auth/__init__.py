"""The token service: who may use aisle, and as what.

`accounts.py` changes accounts and writes the audit trail, `login.py` lets people and services in, `sessions.py`
issues, renews and revokes tokens, `tokens.py` signs and verifies them, `keys.py` has the keys, `app.py` is the web.
"""
