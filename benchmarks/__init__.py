"""Measurements against real peers, each a command that prints a table. They are no tests: nothing here passes or fails."""
