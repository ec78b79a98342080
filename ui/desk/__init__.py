"""Between the form and the queue: raw values become requests and jobs, jobs become what the page draws.

It knows the form's fields, whoever draws them; none of the pages.
"""

from ui.desk.desk import DRAWN, MODELS_OWN, OFFERED, TASKS, Desk, own_values
from ui.desk.form import EASEL, EDITING, REMEMBERED, SIDES, mean_the_same, write_form
from ui.desk.studio import Studio

__all__ = [
    "DRAWN",
    "EASEL",
    "EDITING",
    "MODELS_OWN",
    "OFFERED",
    "REMEMBERED",
    "SIDES",
    "TASKS",
    "Desk",
    "Studio",
    "mean_the_same",
    "own_values",
    "write_form",
]
