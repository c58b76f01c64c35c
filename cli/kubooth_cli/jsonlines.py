"""`--json`: the trainer's events, one per line, alone on standard output; words for people on standard error."""

from __future__ import annotations

from signal import Signals
from typing import TextIO

from kubooth_cli.presenter import Run, stopping_text
from kubooth_cli.state import RunState
from kubooth_trainer.progress import Event, InfoEvent, event_to_json


class Json:
    """Passes each event on as the very line it came as, after two of our own: working folder and config."""

    def __init__(self, stream: TextIO, words: TextIO) -> None:
        self._stream = stream
        self._words = words
        self._state = RunState()

    def begin(self, run: Run, state: RunState) -> None:
        self._state = state
        for key, value in (("workdir", run.workdir), ("config", run.config_path)):
            self._write(self._stream, event_to_json(InfoEvent(key=key, value=str(value))))

    def event(self, event: Event, line: str, *, changed: bool) -> None:
        self._write(self._stream, line)

    def log(self, line: str) -> None:
        self._write(self._words, f"| {line}")

    def stopping(self, cause: Signals) -> None:
        self._write(self._words, stopping_text(cause, self._state))

    def tick(self) -> None:
        pass

    def close(self) -> None:
        pass

    @staticmethod
    def _write(stream: TextIO, text: str) -> None:
        stream.write(text + "\n")
        stream.flush()
