"""Ctrl-C and SIGTERM for long work: it is asked to stop where it can go on later."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_asked() -> Iterator[Callable[[], bool]]:
    """Gives a function that says whether one of the signals has come.

    A second Ctrl-C ends the process as it would have done without this. Only the main thread can
    hear signals; elsewhere the answer is always no.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        asked.set()
        # Launchers of several processes send SIGTERM after the Ctrl-C that all of them heard.
        signal.signal(signal.SIGINT, before[signal.SIGINT])

    for number in _SIGNALS:
        signal.signal(number, on_signal)
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
