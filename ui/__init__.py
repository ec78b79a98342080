"""The page, and the server in front of it. gradio is imported only here; the engine knows nothing of it."""

import importlib
import inspect
import os
from typing import Any

# Before gradio is imported: neither it nor the hub's client shall report on anybody.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"


def _import_gradio() -> None:
    """Import gradio without the stub files for editors that it writes, each time, for each of its components.

    They are half of its import: 1.6 instead of 3.0 seconds of the 4 in which the page shall stand. gradio leaves them
    out for classes that come from no file.
    """
    getfile = inspect.getfile

    def no_file_of_gradio(thing: Any) -> str:
        if getattr(thing, "__module__", "").startswith("gradio."):
            raise OSError("gradio writes no stubs here")
        return getfile(thing)

    inspect.getfile = no_file_of_gradio  # type: ignore[assignment]
    try:
        importlib.import_module("gradio")
    finally:
        inspect.getfile = getfile


_import_gradio()
