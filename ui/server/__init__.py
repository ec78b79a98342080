"""The server around gradio: who may come, who is asking, what may be said, and how much one visitor may hold.

It knows events by what they declare and pictures by their owners; no page, and nothing of what stands on one.
"""

from ui.server.archive import file_name
from ui.server.belongings import Visitor
from ui.server.endpoint import add_endpoint
from ui.server.places import place_of
from ui.server.refusals import Page
from ui.server.serving import Running, check_address, running, serve
from ui.server.uploads import MOST_CONTROLS, read_controls, read_upload, uploaded
from ui.server.visitors import address_of, is_known, owner_of

__all__ = [
    "MOST_CONTROLS",
    "Page",
    "Running",
    "Visitor",
    "add_endpoint",
    "address_of",
    "check_address",
    "file_name",
    "is_known",
    "owner_of",
    "place_of",
    "read_controls",
    "read_upload",
    "running",
    "serve",
    "uploaded",
]
