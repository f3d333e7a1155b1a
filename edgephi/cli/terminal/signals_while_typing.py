"""Signals that come while a person types reach Python at once, and not with the next key.

Python acts on a signal when the wait for a key is interrupted by it. One that comes a moment before that wait
begins, while readline still draws the line, interrupts nothing: Ctrl-C would have no effect, and a service
manager's SIGTERM would wait for a key that nobody presses. So it is sent again until it is acted on.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

_PATIENCE_SECONDS = 0.2


@contextlib.contextmanager
def signals_arrive() -> Iterator[None]:
    """Within the block, which is for the main thread, a signal ends the wait for a key.

    Only for signals whose handler raises: they are sent again until the block is left.
    """
    main_thread = threading.get_ident()
    incoming, outgoing = os.pipe()
    os.set_blocking(outgoing, False)
    left = threading.Event()

    def send_again() -> None:
        while number := os.read(incoming, 1):  # nothing once the other end is closed
            if left.wait(_PATIENCE_SECONDS):
                return
            signal.pthread_kill(main_thread, number[0])

    thread = threading.Thread(target=send_again, name="signals", daemon=True)
    before = signal.set_wakeup_fd(outgoing, warn_on_full_buffer=False)
    thread.start()
    try:
        yield
    finally:
        left.set()
        signal.set_wakeup_fd(before)
        os.close(outgoing)
        thread.join()
        os.close(incoming)
