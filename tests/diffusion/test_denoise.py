"""What is laid back after each step: Differential Diffusion's rule, and the plain blend for black and white."""

from __future__ import annotations

import torch

from core.diffusion.denoise import Blend


class Noiseless:
    """A scheduler whose noisy source is the source plus the timestep, so that a test sees which one was taken."""

    def add_noise(self, original, noise, timesteps):
        return original + timesteps.reshape(-1, 1, 1, 1)


def kept_after(done: int, mask: list[float], total: int = 10) -> list[bool]:
    """For each value of `mask`, whether the source stands there after `done` of `total` steps."""
    timesteps = torch.arange(total, 0, -1).float() * 100
    source = torch.zeros(1, 1, 1, len(mask))
    blend = Blend(source, source, torch.tensor(mask).reshape(source.shape), timesteps)
    blended = blend(torch.full_like(source, -1.0), Noiseless(), done)
    level = timesteps[done] if done < total else 0.0
    assert all(value in (-1.0, level) for value in blended.flatten().tolist())
    return (blended == level).flatten().tolist()


def test_black_is_always_kept_and_white_never():
    for done in range(1, 11):
        assert kept_after(done, [0.0, 1.0]) == [True, False]


def test_grey_is_free_for_its_share_of_the_steps():
    for mask, free in ((0.05, 0), (0.1, 1), (0.5, 5), (0.95, 9)):
        steps_after = sum(not kept_after(done, [mask])[0] for done in range(10))
        assert steps_after == free, mask
    assert kept_after(10, [0.05, 0.5]) == [True, False]  # at the end, too
