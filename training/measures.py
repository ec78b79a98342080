"""What is measured on the pixels of a picture with one plain background. Pictures are (h, w, 3) of bytes."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from training.render import NIGHT, Bytes

BORDER = 8  # pixels
SLACK = 2  # pixels by which edges may be off
STANDS_OUT = 40.0  # in RGB of 0 … 255
STRONGEST = 99.5  # percent of the pixels that are fainter than what a picture's contrast is measured by
STROKE = 11  # pixels, wider than any line of an outline


def silhouette(picture: Bytes) -> NDArray[np.bool_]:
    """Where something stands out from the background, which is what the border shows."""
    return np.asarray(_contrast(picture) > STANDS_OUT)


def _contrast(picture: Bytes) -> NDArray[np.float32]:
    return np.asarray(np.linalg.norm(picture.astype(np.float32) - _background(picture), axis=2))


def _background(picture: Bytes) -> NDArray[np.float32]:
    edge = [picture[:BORDER], picture[-BORDER:], picture[:, :BORDER], picture[:, -BORDER:]]
    return np.asarray(np.median(np.concatenate([part.reshape(-1, 3) for part in edge]), axis=0), np.float32)


def overlap(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Intersection over union."""
    return float((one & other).sum() / max(1, (one | other).sum()))


def edge_f1(picture: Bytes, wanted: Bytes) -> float:
    """Of a picture's edges against a map of edges, each met where the other has one within 2 pixels."""
    drawn, asked = cv2.Canny(picture, 60, 140) > 0, wanted > 0
    around = np.ones((2 * SLACK + 1, 2 * SLACK + 1), np.uint8)

    def met(edges: NDArray[np.bool_], by: NDArray[np.bool_]) -> float:
        near = cv2.dilate(by.astype(np.uint8), around) > 0
        return float((edges & near).sum() / max(1, edges.sum()))

    precision, recall = met(drawn, asked), met(asked, drawn)
    return 2 * precision * recall / max(1e-9, precision + recall)


def filled(picture: Bytes) -> float:
    """The share of the picture that is filled more widely than a line: outlines have little of it.

    A line is as wide as it is at half of its contrast; soft edges widen none.
    """
    contrast, stroke = _contrast(picture), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (STROKE, STROKE))
    drawn = contrast > max(STANDS_OUT, np.percentile(contrast, STRONGEST) / 2)
    return float(cv2.morphologyEx(drawn.astype(np.uint8), cv2.MORPH_OPEN, stroke).mean())


def daylight(picture: Bytes) -> float:
    """How far the background is from the middle of the night sky, in RGB of 0 … 255."""
    return float(np.linalg.norm(_background(picture) - np.mean(NIGHT, axis=0)))
