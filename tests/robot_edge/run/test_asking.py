"""Which frames are kept for people to name, and which taught ones are doubted, as parts; test_live has all of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from broker.errors import ConfigError
from broker.link.mailbox import Mailbox
from broker.wire.messages import AnsweredBy
from hierarchy.encoding import Encoding, EncodingLayout
from robot_edge.inference.cascade import Decision, nothing_seen
from robot_edge.learning.frame_memory import FrameMemory
from robot_edge.learning.framed import Viewfinder
from robot_edge.learning.framing import Framing
from robot_edge.page.page_model import PageModel
from robot_edge.run.asking import MAX_UNDECIDED, PICTURE_PIXELS, Asking
from robot_edge.run.doubting import Doubting
from robot_edge.sources.frames import Frame
from robot_edge.teaching.lessons import Teaching
from tests.hierarchy.test_edge import batch, trainer
from tests.robot_edge.learning.test_label_doubts import lessons
from tests.robot_edge.teaching.test_questions import SIZE, Asked, noise

NOTHING: Any = None


class Sight:
    """What sees, and decides as a test wants."""

    def __init__(self) -> None:
        self.asked = Asked()
        self.teaching = Teaching(self.asked.clock)
        viewfinder = Viewfinder(Framing(size=SIZE), lambda _region: None)
        self.asking = Asking(questions=self.asked, teaching=self.teaching, viewfinder=viewfinder, threshold=0.8)
        self._number = 0

    def see(self) -> Frame:
        self._number += 1
        image = np.repeat(np.repeat(noise(self._number), 4, axis=0), 4, axis=1)
        frame = Frame(image=image, label=None, scene=0, time=float(self._number))
        self.asking.saw(frame, Frame(image=noise(self._number), label=None, scene=0, time=frame.time))
        return frame

    def decide(self, frame: Frame, name: str, confidence: float, by: AnsweredBy = "exit") -> None:
        self.asked.clock.now += 1
        decision = Decision(name=name, confidence=confidence, by=by, taken_at=0.0, latency=0.0)
        self.asking.decided(decision, frame)


def test_what_neither_end_is_sure_of_is_asked_as_the_network_saw_it() -> None:
    sight = Sight()
    first, second, third, fourth = (sight.see() for _ in range(4))
    sight.decide(second, "mug", 0.79)  # which is decided later than it was seen
    sight.decide(first, "mug", 0.9, by="cloud")
    sight.decide(third, "", 0.9)
    sight.decide(fourth, "mug", 0.8)
    assert sight.asked.shown == [2, 3]
    asked = sight.asked.open[0]
    np.testing.assert_array_equal(asked.frame.image, noise(2))
    assert asked.picture.shape == (PICTURE_PIXELS, PICTURE_PIXELS, 3)
    assert (asked.guess, asked.confidence) == ("mug", 0.79)


def test_nothing_is_asked_in_a_lesson_without_a_camera_or_of_what_a_program_asked() -> None:
    sight = Sight()
    frame = sight.see()
    sight.asking.decided(nothing_seen(0.0), Frame(image=frame.image, label=None, scene=0, time=0.0))
    sight.teaching.begin("mug", 100, known=False)
    sight.decide(frame, "", 0.0)
    sight.teaching.end()
    sight.decide(frame, "", 0.0)
    assert sight.asked.shown == []
    frames = [sight.see() for _ in range(MAX_UNDECIDED + 1)]
    sight.decide(frames[0], "", 0.0)
    assert sight.asked.shown == [], "it was let go of, whatever came of it"


def test_what_the_exit_has_learned_meanwhile_is_asked_no_more() -> None:
    sight = Sight()
    for _ in range(2):
        sight.decide(sight.see(), "", 0.0)
    sure = SimpleNamespace(confidence=0.9, unknown=False), SimpleNamespace(confidence=0.9, unknown=True)
    says = iter(sure)
    predictor: Any = SimpleNamespace(predict_between_steps=lambda *_: next(says))
    state: Any = SimpleNamespace(trainer=SimpleNamespace(segment=None, steps=9))
    assert len([*sight.asking.review(state, predictor)]) == 2
    assert sight.asked.shown == [2]
    assert [*sight.asking.review(state, predictor)] == [], "nothing was learned since"


class Taught:
    """Remembered frames of a network that stands still: three lessons, of which the first ends on the star."""

    def __init__(self) -> None:
        features, names, numbers = lessons(24)
        features[20:24] = features[30:34]
        self.memory = FrameMemory(100, SIZE, 0, encoding=EncodingLayout(features=features.shape[1]))
        for row, (name, number) in enumerate(zip(names, numbers, strict=True)):
            encoding = Encoding(features=features[row : row + 1], crossing=None)
            self.memory.add(name, noise(number), sample=number, encoding=encoding)
        self.saved = 0
        self.page = PageModel("r1", Mailbox(8))
        self.trainer = SimpleNamespace(steps=0)
        state: Any = SimpleNamespace(
            memory=SimpleNamespace(rehearsal=self.memory),
            trainer=self.trainer,
            forget_frames=self.memory.forget_numbers,
        )
        saving: Any = SimpleNamespace(save=self._save)
        self.doubting = Doubting(state=state, saving=saving, page_model=self.page)
        self.look()

    def look(self) -> list[int]:
        self.trainer.steps += 1
        for _ in self.doubting.look():
            pass
        return [one.number for one in self.page.doubts]

    def _save(self) -> None:
        self.saved += 1


def test_taught_frames_in_doubt_are_shown_with_a_reason_and_forgotten_or_kept() -> None:
    taught = Taught()
    assert [one.number for one in taught.page.doubts] == [21, 22, 23, 24]
    first = taught.page.doubts[0]
    assert first.name == "mug"
    assert "'star'" in first.why
    assert taught.page.picture(first.thumbnail.mark) is not None
    assert taught.doubting.remove([21, 22]) == 2
    assert taught.saved == 1
    assert [one.number for one in taught.page.doubts] == [23, 24]
    assert not {21, 22} & set(taught.memory.numbers())
    assert taught.doubting.keep([23]) == 1
    assert taught.look() == [24]
    taught.memory.forget_class("mug")
    taught.doubting.classes_changed()
    assert taught.page.doubts == ()
    with pytest.raises(ConfigError, match="all frames that are left of 'car'"):
        taught.doubting.remove(range(49, 73))
    assert taught.memory.counts() == {"star": 24, "car": 24}


def test_a_network_that_learns_doubts_what_its_exit_takes_for_another_class() -> None:
    edge = trainer()
    for number in range(30):
        edge.step(*batch(18, number), fresh=18, progress=number / 30)
    images, names = batch(30, seed=500)
    right = edge.evaluate(images)[0]
    assert sum(one == other for one, other in zip(right, names, strict=True)) >= 27
    memory = FrameMemory(100, images.shape[1], 0)
    wrong = next(name for name in edge.classes if name != names[0])
    for number, (image, name) in enumerate(zip(images, [wrong, *names[1:]], strict=True), 1):
        memory.add(name, image, sample=number)
    page = PageModel("r1", Mailbox(8))
    state: Any = SimpleNamespace(memory=SimpleNamespace(rehearsal=memory), trainer=edge)
    for _ in Doubting(state=state, saving=NOTHING, page_model=page).look():
        pass
    assert 1 in [one.number for one in page.doubts]
    assert len(page.doubts) <= 4
