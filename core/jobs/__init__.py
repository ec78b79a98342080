"""Jobs that outlive the page: the line, the worker, and the history that keeps pictures and what they came from.

It knows requests and events: nothing of the engine behind a `Runner`, and nothing of the page.
"""

from core.jobs.board import FILM_LENGTH
from core.jobs.history import History
from core.jobs.line import ENDED, JobState
from core.jobs.queue import JobQueue
from core.jobs.quota import disk_warning, free_space
from core.jobs.records import Filters, PictureRow, Status

__all__ = [
    "ENDED",
    "FILM_LENGTH",
    "Filters",
    "History",
    "JobQueue",
    "JobState",
    "PictureRow",
    "Status",
    "disk_warning",
    "free_space",
]
