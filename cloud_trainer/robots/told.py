"""What others were told of a robot's training, so that they are told what is new. Pure."""

from __future__ import annotations

from broker.wire.messages import TrainerMetrics


class Told:
    """Of one robot. published: metrics that went out last; None where others may have missed them."""

    def __init__(self) -> None:
        self.published: TrainerMetrics | None = None
        self._images = 0
        self._doubt = ""

    def news(self, metrics: TrainerMetrics | None) -> TrainerMetrics | None:
        """Return metrics where they are not what others were told last."""
        return metrics if metrics != self.published else None

    def doubt_news(self, doubted: str) -> str | None:
        """Return a doubt, empty for none, where it has come or gone since the last call; else None."""
        if bool(doubted) == bool(self._doubt):
            return None
        self._doubt = doubted
        return doubted

    def progress_news(self, metrics: TrainerMetrics | None) -> TrainerMetrics | None:
        """Return metrics, where more images were learned from since the last call; else None."""
        if metrics is None or metrics.cloud_loss is None or metrics.images <= self._images:
            return None
        self._images = metrics.images
        return metrics


def no_metrics(robot: str, boot: str, problem: str, *, waiting: int = 0, rejected: int = 0) -> TrainerMetrics:
    """Return what is said of a robot that there is no network for."""
    return TrainerMetrics(
        robot=robot,
        boot=boot,
        images=0,
        classes=0,
        evaluation=0,
        evaluated=0,
        messages_trained=0,
        messages_waiting=waiting,
        messages_rejected=rejected,
        quarantine=problem,
    )
