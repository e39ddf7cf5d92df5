"""How much pictures leak to one attacker, in three figures, and an attack that takes seconds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hierarchy.attack.decoder import OnStep, train_decoder
from hierarchy.attack.pairs import Pairs, Pictures, Reconstructions, mean_picture
from hierarchy.attack.recognition import GALLERY, found
from hierarchy.attack.ridge import linear_attackers
from hierarchy.attack.similarity import psnr, ssim


@dataclass(frozen=True, kw_only=True)
class Leak:
    """psnr: in dB. ssim: 1 for a copy. Both means over frames. found: share of frames that are recognised."""

    psnr: float
    ssim: float
    found: float


def leak_of(seen: Reconstructions, frames: Pictures, others: Pictures) -> Leak:
    """Return how much of frames uint8 (N, h, w, 3) an attacker saw, float32 (N, h, w, 3).

    others: uint8 (M, h, w, 3), to fill the gallery up to GALLERY; further ones are left out.
    """
    fill = others[: max(0, GALLERY - len(frames))]
    return Leak(
        psnr=float(psnr(seen, frames).mean()),
        ssim=float(ssim(seen, frames).mean()),
        found=found(seen, frames, fill),
    )


def nothing_leaks(own: Pairs, attacked: Pairs) -> Leak:
    """Return the figures of whoever paints the mean of its own pictures, whatever crossed: the least there can be."""
    guess = np.broadcast_to(mean_picture(own.pictures), attacked.pictures.shape)
    return leak_of(np.ascontiguousarray(guess), attacked.pictures, own.pictures)


def quick_leak(
    own: Pairs, attacked: Pairs, *, decoder_steps: int = 0, seed: int = 0, on_step: OnStep = lambda _: False
) -> Leak:
    """Return the worst of each figure over two linear attackers, and a decoder where it is given steps.

    own: a thousand pairs or more; attacked: a hundred or more, of other frames. The gallery is filled with the
    attacker's own pictures. The same for the same seed; PyTorch's own random state stays as it was.
    """
    seen = [one.reconstruct(attacked.values) for one in linear_attackers(own).values()]
    if decoder_steps:
        decoder = train_decoder(own, steps=decoder_steps, seed=seed, on_step=on_step)
        seen.append(decoder.reconstruct(attacked.values))
    return worst([leak_of(one, attacked.pictures, own.pictures) for one in seen])


def worst(leaks: list[Leak]) -> Leak:
    """Return the worst of each figure. leaks: at least one."""
    return Leak(
        psnr=max(one.psnr for one in leaks), ssim=max(one.ssim for one in leaks), found=max(one.found for one in leaks)
    )
