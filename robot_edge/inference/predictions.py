"""Which predictions others are told: a few a second, and at once when the answer is another. Pure but for the link."""

from __future__ import annotations

from broker.link.base import Link
from broker.wire import topics
from broker.wire.codec import pack
from broker.wire.messages import Prediction
from robot_edge.inference.cascade import Decision


class PredictionPublisher:
    """Publishes what a robot sees.

    per_second: predictions with the same name in a second, at most.
    """

    def __init__(self, link: Link, robot: str, boot: str, *, per_second: float) -> None:
        self.published = 0
        self._link = link
        self._topic = topics.topic("robot", robot, "prediction")
        self._boot = boot
        self._every = 1 / per_second
        self._last: Decision | None = None
        self._next_at = float("-inf")

    def offer(self, decision: Decision, *, now: float, wall: float) -> bool:
        """Publish a decision if it is due. Return whether it was.

        now: on the decision's clock; wall: Unix time of the same moment. A frame older than the last one that was told
        is no news: the cloud may be asked about one and the exit be sure of the next.
        """
        last = self._last
        if last and decision.taken_at < last.taken_at:
            return False
        changed = last is None or decision.name != last.name
        if not changed and now < self._next_at:
            return False
        prediction = Prediction(
            boot=self._boot,
            time=wall - (now - decision.taken_at),
            name=decision.name,
            confidence=decision.confidence,
            by=decision.by,
            latency=decision.latency,
        )
        if not self._link.publish(self._topic, pack(prediction)):
            return False
        self.published += 1
        self._last, self._next_at = decision, now + self._every
        return True
