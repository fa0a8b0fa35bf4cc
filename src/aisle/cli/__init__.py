"""The `aisle` command: one verb for each step. A verb translates, calls one function and translates back."""

from aisle.cli.main import aisle, main

__all__ = ["aisle", "main"]
