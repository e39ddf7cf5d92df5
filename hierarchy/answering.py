"""Networks that answer by themselves: frames in, calibrated answers out. Torch only, no I/O.

They compute what a robot computes of one frame at a time, in operations that other runtimes have too. Preprocessing,
quantizer, temperature and the test for the unknown are inside. They share the layers of the segments they are made of.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from broker.wire.messages import SplitSpec
from broker.wire.quantize import SMALLEST_STEP, range_sample
from hierarchy.calibration import Calibration
from hierarchy.cloud import CloudSegment
from hierarchy.edge import EdgeSegment
from hierarchy.exits import FeatureExit
from hierarchy.head import GrowingHead
from hierarchy.input_spec import InputSpec
from hierarchy.novelty import Novelty

# The calibration's threshold is the confidence of a held-out frame, or lies between two. Rounded to float32 that frame
# would fall on either side.
THRESHOLD_SLACK = 1e-5
# What an exponential takes as it is.
MOST_EXPONENT = 80.0


class EdgeAnswers(nn.Module):
    """What a robot's exit says of frames, uint8 (N, H, W, 3).

    crossing: whether it also returns what crosses, float32 (N, C, ...), before it is quantized.
    """

    def __init__(
        self,
        segment: EdgeSegment,
        split: SplitSpec,
        calibration: Calibration,
        novelty: Novelty | None,
        *,
        crossing: bool = False,
    ) -> None:
        super().__init__()
        self.input = Normalised(segment.spec)
        self.front, self.bottleneck = segment.front, segment.bottleneck
        self.received = Received(segment.shape, split.bits)
        self.exit = segment.exit
        self.judgement = Judgement(segment.exit.head, calibration, novelty)
        self._crossing = crossing
        self.eval().requires_grad_(False)

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        """Return probabilities (N, classes), confidence (N,), unknown bool (N,) and, where asked for, what crosses."""
        at_cut = self.front(self.input(frames))
        crossing = self.bottleneck(at_cut)
        seen = at_cut if isinstance(self.exit, FeatureExit) else self.received(crossing)
        answers = self.judgement(self.exit.features(seen))
        return (*answers, crossing) if self._crossing else answers


class WholeAnswers(nn.Module):
    """What both halves say of frames, uint8 (N, H, W, 3): the robot's front, and the cloud's rest behind it."""

    def __init__(self, segment: EdgeSegment, split: SplitSpec, cloud: CloudSegment, calibration: Calibration) -> None:
        super().__init__()
        self.input = Normalised(segment.spec)
        self.front, self.bottleneck = segment.front, segment.bottleneck
        self.received = Received(segment.shape, split.bits)
        self.cloud = cloud
        self.judgement = Judgement(cloud.head, calibration, None)
        self.eval().requires_grad_(False)

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        """Return probabilities (N, classes), confidence (N,) and unknown bool (N,)."""
        crossing = self.bottleneck(self.front(self.input(frames)))
        answers: tuple[Tensor, ...] = self.judgement(self.cloud.features(self.received(crossing)))
        return answers


class Normalised(nn.Module):
    """Images float32 (N, 3, H, W) of zero mean and unit deviation, of frames uint8 (N, H, W, 3)."""

    scale: Tensor
    shift: Tensor

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        mean, deviation = np.array(spec.mean, np.float32), np.array(spec.deviation, np.float32)
        self.register_buffer("scale", torch.from_numpy(1 / (255 * deviation)))
        self.register_buffer("shift", torch.from_numpy(mean / deviation))

    def forward(self, frames: Tensor) -> Tensor:
        return (frames.float() * self.scale - self.shift).permute(0, 3, 1, 2).contiguous()


class Received(nn.Module):
    """Samples (N, C, ...) as the other end receives them, each in a message of its own.

    What `broker.wire.quantize` does with one sample, in operations on tensors.
    """

    def __init__(self, shape: tuple[int, ...], bits: int) -> None:
        """shape: of one sample, (C, ...)."""
        super().__init__()
        values = int(np.prod(shape[1:], dtype=int))
        self._spatial = len(shape) - 1
        self._levels = 2.0**bits - 1
        self._stride, self._tail = range_sample(values, bits)
        self._last = -(-values // self._stride) - 1

    def forward(self, samples: Tensor) -> Tensor:
        if not self._spatial:  # a channel of one value has a range without extent
            return samples
        flat = samples.flatten(2)
        ordered = torch.sort(flat[:, :, :: self._stride], dim=2).values
        low, high = ordered[:, :, self._tail], ordered[:, :, self._last - self._tail]
        narrow = high <= low
        low = torch.where(narrow, flat.amin(2), low)
        high = torch.where(narrow, flat.amax(2), high)
        step = (high - low) / self._levels
        step = torch.where(step < SMALLEST_STEP, torch.zeros_like(step), step)
        per_step = torch.where(step > 0, 1 / step.clamp(min=SMALLEST_STEP), torch.zeros_like(step))
        low, step, per_step = low.unsqueeze(2), step.unsqueeze(2), per_step.unsqueeze(2)
        codes = torch.floor(((flat - low) * per_step + 0.5).clamp(0, self._levels))
        return (codes * step + low).view_as(samples)


class Judgement(nn.Module):
    """A growing head as it is now, with what makes its logits a confidence and tells the unknown."""

    weight: Tensor
    bias: Tensor
    judged: Tensor

    def __init__(self, head: GrowingHead, calibration: Calibration, novelty: Novelty | None) -> None:
        super().__init__()
        classes = head.classes
        self.register_buffer("weight", head.weight.detach()[: len(classes)] / calibration.temperature)
        self.register_buffer("bias", head.bias.detach()[: len(classes)] / calibration.temperature)
        self._comparable = len(classes) > 1
        self._least = calibration.least_confidence - THRESHOLD_SLACK
        self.familiarity = Familiarity(novelty) if novelty else None
        known = novelty.classes if novelty else ()
        self.register_buffer("judged", torch.tensor([name in known for name in classes]))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        probabilities = nn.functional.linear(features, self.weight, self.bias).softmax(1)
        confidence, best = probabilities.max(1)
        if not self._comparable:
            confidence = torch.zeros_like(confidence)
        unknown = confidence < self._least if self._comparable else confidence < 1
        if self.familiarity is None:
            return probabilities, confidence, unknown
        familiar = self.familiarity(features)
        is_new, judged = familiar < 0.5, self.judged[best]
        lower = torch.minimum(confidence, familiar) if self._comparable else familiar
        seen_so = judged & is_new if self._comparable else judged
        unknown = (judged & is_new) | (~judged & unknown)
        return probabilities, torch.where(seen_so, lower, confidence), unknown


class Familiarity(nn.Module):
    """How alike features (N, F) are to what is remembered, 0 to 1, as `Novelty.familiarity`: unknown below a half."""

    weight: Tensor
    bias: Tensor
    references: Tensor

    def __init__(self, novelty: Novelty) -> None:
        super().__init__()
        measures = novelty.measures
        self.register_buffer("weight", torch.from_numpy(measures.weight))
        self.register_buffer("bias", torch.from_numpy(measures.bias))
        self.register_buffer("references", torch.from_numpy(measures.references))
        self._scale, self._limit, self._deviation = novelty.scale, novelty.limit, novelty.deviation

    def forward(self, features: Tensor) -> Tensor:
        scale, units = self._scale, nn.functional.normalize(features, dim=1)
        distances = 1 - nn.functional.linear(units, self.references).amax(1)
        unlike = (distances - scale.alike) / scale.distance_deviation
        if scale.several:
            claims = nn.functional.linear(units, self.weight, self.bias).amax(1)
            unlike = (scale.claim - claims) / scale.claim_deviation + unlike.clamp(min=0)
        exponent = ((unlike - self._limit) / self._deviation).clamp(max=MOST_EXPONENT)
        return 1 / (1 + torch.exp(exponent))
