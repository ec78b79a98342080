"""What lies on disk, told from headers: models, ControlNets, LoRAs, embeddings, and what a request finds there.

It knows files: nothing of the loop, of control maps, or of who asks.
"""

from core.library.checkpoints import STEPS, Checkpoint, named
from core.library.detectors import find_detector
from core.library.embeddings import lengths, read_words
from core.library.folders import READ_ONLY, Folders, shelves
from core.library.library import Kit, Library
from core.library.loras import LoraInfo, LoraShelf
from core.library.missing import AtHand, Missing
from core.library.networks import Network
from core.library.part_loading import load_part
from core.library.parts import Part
from core.library.resolving import size_warning, with_loras

__all__ = [
    "READ_ONLY",
    "STEPS",
    "AtHand",
    "Checkpoint",
    "Folders",
    "Kit",
    "Library",
    "LoraInfo",
    "LoraShelf",
    "Missing",
    "Network",
    "Part",
    "find_detector",
    "lengths",
    "load_part",
    "named",
    "read_words",
    "shelves",
    "size_warning",
    "with_loras",
]
