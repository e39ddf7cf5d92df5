"""What crosses of frames, as the cloud receives it: quantized in messages, and dequantized with their ranges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from broker.wire.quantize import dequantize
from hierarchy.attack.pairs import Values
from hierarchy.device import Compute
from hierarchy.edge import EdgeSegment, head_logits, run_segment, still_encoder
from hierarchy.encoding import Encoding
from robot_edge.evaluation.saved_run import SavedRun
from robot_edge.run.same_run import unpack_compute
from robot_edge.sources.frames import Pixels


@dataclass(frozen=True, kw_only=True, eq=False)
class Wire:
    """A run's segment, as it encodes frames once it has learned.

    bits: of a value. batch: frames in a message, which share the ranges. still: encodes where the network stands still.
    """

    segment: EdgeSegment
    bits: int
    batch: int
    compute: Compute
    still: Callable[[Pixels], Encoding] | None

    @staticmethod
    def of(run: SavedRun, *, batch: int) -> Wire:
        """Return that of a run, computed on the processor as the run was."""
        device = torch.device("cpu")
        compute = unpack_compute(run.checkpoint.compute, device) or Compute(device=device)
        compute.place(run.segment)
        run.segment.eval()
        run.segment.requires_grad_(False)
        still = still_encoder(run.segment, compute) if run.segment.stands_still else None
        return Wire(segment=run.segment, bits=run.split.bits, batch=batch, compute=compute, still=still)

    @property
    def classes(self) -> tuple[str, ...]:
        """What the exit tells apart."""
        return self.segment.exit.head.classes

    @torch.inference_mode()
    def crossed(self, images: Pixels) -> tuple[Values, NDArray[np.float32]]:
        """Return what crosses of a message of frames uint8 (N, size, size, 3), and the exit's logits (N, classes).

        Raises Diverged.
        """
        if self.still is not None:
            encoding = self.still(images)
            quantized, logits = encoding.quantized(self.bits), head_logits(self.segment.exit.head, encoding)
        else:
            passed = run_segment(self.segment, images, bits=self.bits, compute=self.compute)
            quantized, logits = passed.quantized, passed.logits
        return dequantize(quantized), logits.cpu().numpy()

    def front(self, pictures: Tensor) -> Tensor:
        """Return what would cross of pictures (N, 3, size, size) from 0 to 1, not quantized, with a gradient."""
        mean, deviation = (pictures.new_tensor(one)[:, None, None] for one in self._spec)
        return self.segment.encode((pictures - mean) / deviation).float()

    @property
    def _spec(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return self.segment.spec.mean, self.segment.spec.deviation
