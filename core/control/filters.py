"""Control maps by OpenCV: each takes an RGB picture and the thresholds of its row in the table of preprocessors."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]  # RGB (h, w, 3) in, RGB or grey (h, w) out
SAMPLE_SIDE = 128  # pixels along a side from which the colours of a picture are learned


def none(picture: Bytes) -> Bytes:
    return picture


def canny(picture: Bytes, low: float, high: float) -> Bytes:
    return np.asarray(cv2.Canny(picture, low, high), np.uint8)


def scribble(picture: Bytes, threshold: float) -> Bytes:
    """Extended difference of Gaussians (Winnemöller et al. 2012), with the constants of sd-webui-controlnet."""
    fine, coarse = (cv2.GaussianBlur(picture.astype(np.float32), (0, 0), sigma) for sigma in (0.5, 5.0))
    darker = (coarse - fine).min(axis=2).clip(0, 255)
    return np.where(2 * darker > threshold, np.uint8(255), np.uint8(0))


def soft_edge(picture: Bytes, sigma: float) -> Bytes:
    """The steepest of the three channels' gradients: a step from black to white is white."""
    smooth = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), sigma)
    across, down = cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
    steepest = np.hypot(across, down).max(axis=2) / 8  # Sobel's weights add up to 8: brightness a pixel
    return np.asarray((steepest * (sigma * np.sqrt(2 * np.pi))).clip(0, 255), np.uint8)


def lineart(picture: Bytes, sigma: float, faintest: float) -> Bytes:
    """What is darker than its surroundings, the usual line at half white: sd-webui-controlnet's "standard"."""
    values = picture.astype(np.float32)
    darker = (cv2.GaussianBlur(values, (0, 0), sigma) - values).min(axis=2).clip(0, 255)
    lines = darker[darker > faintest]
    usual = max(16.0, float(np.median(lines))) if lines.size else 16.0
    return np.asarray((darker / usual * 127).clip(0, 255), np.uint8)


def blur(picture: Bytes, sigma: float) -> Bytes:
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma), np.uint8)


def tile(picture: Bytes, rate: float) -> Bytes:
    """Made smaller and large again: what is left when details are taken away."""
    height, width = picture.shape[:2]
    size = max(1, round(width / rate)), max(1, round(height / rate))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def colour_grid(picture: Bytes, cell: float) -> Bytes:
    height, width = picture.shape[:2]
    size = max(1, round(width / cell)), max(1, round(height / cell))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST), np.uint8)


def invert(picture: Bytes) -> Bytes:
    return 255 - picture


def threshold(picture: Bytes, level: float) -> Bytes:
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return np.where(grey > level, np.uint8(255), np.uint8(0))


def segments(picture: Bytes, areas: float) -> Bytes:
    """k-means in Lab. It begins from the pixels' order of brightness, so that nothing is drawn at random."""
    lab = cv2.cvtColor(picture, cv2.COLOR_RGB2LAB)
    side = min(1.0, SAMPLE_SIDE / max(lab.shape[:2]))
    sample = cv2.resize(lab, None, fx=side, fy=side, interpolation=cv2.INTER_AREA) if side < 1 else lab
    points = sample.reshape(-1, 3).astype(np.float32)
    count = min(int(areas), len(points))
    if count == 1:  # OpenCV would take the single pixel's values for three points
        return picture
    rank = points.sum(axis=1).argsort(kind="stable").argsort(kind="stable")
    first = (rank * count // len(points)).astype(np.int32)[:, None]
    until = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 30, 0.5)
    _, _, centres = cv2.kmeans(points, count, first, until, 1, cv2.KMEANS_USE_INITIAL_LABELS)
    nearest, best = np.zeros(lab.shape[:2], np.int32), np.full(lab.shape[:2], np.inf, np.float32)
    for index, centre in enumerate(centres):
        distance = ((lab.astype(np.float32) - centre) ** 2).sum(axis=2)
        nearest[distance < best] = index
        best = np.minimum(best, distance)
    colours = cv2.cvtColor(centres.round().clip(0, 255).astype(np.uint8)[None], cv2.COLOR_LAB2RGB)[0]
    return np.asarray(colours[nearest], np.uint8)
