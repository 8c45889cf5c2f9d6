"""Log lines: a message for people, then `action` and the other facts as `key=value` for machines."""

from __future__ import annotations

import json
import logging

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}


class FactsFormatter(logging.Formatter):
    """Appends what was passed as `extra` to the line, strings in JSON's quotes so that no value can forge a line."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        facts = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        return super().format(record) + "".join(f" {name}={json.dumps(value, default=str)}" for name, value in facts.items())


def configure_logging(level: str) -> None:
    """Send every log line of the process to the error stream in this form."""
    handler = logging.StreamHandler()
    handler.setFormatter(FactsFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])
