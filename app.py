"""Darkroom: a Stable Diffusion studio in the browser. `python app.py --help` lists the settings."""

from __future__ import annotations

import sys
from contextlib import closing

from core.errors import DarkroomError
from core.room import empty_room, sweep
from core.settings import Settings


def main() -> int:
    try:
        settings = Settings.from_command_line(sys.argv[1:])
    except DarkroomError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        with empty_room(settings.data):
            run(settings)
    except DarkroomError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def run(settings: Settings) -> None:
    """Everything, put together, until Ctrl+C."""
    from core.engine import Engine, LocalRunner
    from core.jobs import History, JobQueue
    from core.library import Library
    from ui.app import THEME, build_page  # gradio takes seconds to import: --help and wrong flags go without
    from ui.server import check_address, serve

    check_address(settings)
    engine = Engine(settings, Library(settings))
    with (
        closing(History(settings.data)) as history,
        closing(JobQueue(LocalRunner(engine), history, settings.limits)) as queue,
    ):
        sweep(settings.data)
        page = build_page(engine, queue, history)
        serve(page, engine, queue, history, theme=THEME)


if __name__ == "__main__":
    sys.exit(main())
