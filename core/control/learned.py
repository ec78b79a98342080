"""Control maps by networks of transformers. Each takes the network, its folder, an RGB picture and its thresholds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL.Image import Image
from transformers import AutoImageProcessor

Floats = NDArray[np.float32]
FACING = 2 * np.pi  # how far a normal points at the eye, by lllyasviel's recipe, "normal_midas"
NEAREST = 1000.0  # of the depths whose slopes go with it; MiDaS, which that recipe took, gives such
NECK = 1
FROM_COCO = (0, 5, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
"""OpenPose's 18 points among the 17 that ViTPose finds; the neck, which it does not know, is set afterwards."""
LIMBS = (
    *((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10)),
    *((1, 11), (11, 12), (12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17)),
)
COLOURS = (
    *((255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0), (0, 255, 0)),
    *((0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255), (0, 0, 255), (85, 0, 255)),
    *((170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85)),
)
"""OpenPose's, of its limbs and of its points: ControlNets were trained on them."""


def depth(network: Any, folder: Path, picture: Image) -> Image:
    """White is near."""
    return Pillow.fromarray(np.rint(_depth(network, folder, picture) * 255).astype(np.uint8)).convert("RGB")


def normals(network: Any, folder: Path, picture: Image, background: float, relief: float) -> Image:
    """Red: towards the right, green: downwards, blue: towards the eye. What is farther than `background` faces it."""
    depths = _depth(network, folder, picture)
    slopes = [cv2.Sobel(depths * NEAREST * relief, cv2.CV_32F, *along, ksize=3) for along in ((1, 0), (0, 1))]
    facing = np.full_like(depths, FACING)
    vectors = np.stack([*(np.where(depths < background, 0, slope) for slope in slopes), facing], axis=2)
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    return Pillow.fromarray((vectors * 127.5 + 127.5).clip(0, 255).astype(np.uint8))


@torch.inference_mode()
def pose(network: Any, folder: Path, picture: Image, least: float) -> Image:
    """One person's skeleton on black, of the points that the network is at least so sure of (0 … 1)."""
    processor, whole = _processor(folder), [[[0.0, 0.0, float(picture.width), float(picture.height)]]]
    inputs = processor(picture, boxes=whole, return_tensors="pt")
    if network.config.backbone_config.num_experts > 1:
        inputs["dataset_index"] = torch.tensor([0])  # COCO's
    ((person,),) = processor.post_process_pose_estimation(network(**inputs), boxes=whole)
    points, sure = person["keypoints"].numpy()[list(FROM_COCO)], person["scores"].numpy()[list(FROM_COCO)]
    shoulders = [2, 5]
    points[NECK], sure[NECK] = points[shoulders].mean(axis=0), sure[shoulders].min()
    return skeleton(points, sure >= least, picture.size)


def skeleton(points: Floats, seen: NDArray[np.bool_], size: tuple[int, int]) -> Image:
    """OpenPose's drawing of its 18 points (x, y), as far as they are `seen`, in a picture of `size`."""
    canvas = np.zeros((size[1], size[0], 3), np.uint8)
    width = max(1, round(min(size) / 128))
    for (a, b), colour in zip(LIMBS, COLOURS, strict=False):
        if seen[a] and seen[b]:
            (x, y), (across, down) = (points[a] + points[b]) / 2, points[b] - points[a]
            axes = (round(float(np.hypot(across, down)) / 2), width)
            angle = round(float(np.degrees(np.arctan2(down, across))))
            stick = cv2.ellipse2Poly((round(float(x)), round(float(y))), axes, angle, 0, 360, 1)
            cv2.fillConvexPoly(canvas, stick, [0.6 * channel for channel in colour])
    for (x, y), there, colour in zip(points, seen, COLOURS, strict=True):
        if there:
            cv2.circle(canvas, (round(float(x)), round(float(y))), width, colour, -1)
    return Pillow.fromarray(canvas)


@torch.inference_mode()
def _depth(network: Any, folder: Path, picture: Image) -> Floats:
    """(h, w) from 0, the farthest, to 1."""
    processor = _processor(folder)
    seen = network(**processor(picture, return_tensors="pt"))
    (found,) = processor.post_process_depth_estimation(seen, target_sizes=[(picture.height, picture.width)])
    depths = found["predicted_depth"].numpy().astype(np.float32)
    depths -= depths.min()
    return np.asarray(depths / max(float(depths.max()), 1e-9), np.float32)


def _processor(folder: Path) -> Any:
    return AutoImageProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
