"""`python -m tests.watched LOG FLAGS…` is app.py, which notes in LOG each file that it opens or lists and each name
or address that it turns to, a line each: the event of Python's audit hooks, a tab, and what it was about.
"""

from __future__ import annotations

import os
import sys

NOTED = ("open", "os.listdir", "os.scandir", "socket.getaddrinfo", "socket.connect", "subprocess.Popen")


def watch(log: str) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(event: str, about: tuple[object, ...]) -> None:
        if event in NOTED and not isinstance(about[0], int):
            target = about[1] if event == "socket.connect" else about[0]
            os.write(file, f"{event}\t{os.fsdecode(target) if isinstance(target, bytes) else target}\n".encode())

    sys.addaudithook(note)


if __name__ == "__main__":
    watch(sys.argv.pop(1))
    from app import main

    sys.exit(main())
