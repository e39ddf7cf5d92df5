from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from broker.errors import SourceError
from broker.wire.messages import Change, ClassEdit
from robot_edge.learning.batcher import JPEG_SAMPLED_EVERY, Batch, Batcher
from robot_edge.learning.frame_memory import FrameMemory
from robot_edge.sources.frames import Frame, LeftOut, Pixels
from tests.saved_state import read_again

SIZE = 8
# Of a black picture of that size, by which any process must know it again.
MARK_OF_BLACK = -2235294067648109240


class Replay:
    """A source of these frames."""

    skipped = 0
    left_out: tuple[LeftOut, ...] = ()
    status = ""
    reconnects = 0

    def __init__(self, frames: Sequence[Frame | None], length: int | None = None) -> None:
        self.length = length
        self._frames = list(frames)
        self.position = 0

    @property
    def ended(self) -> bool:
        return not self._frames

    def next(self, timeout: float | None = None) -> Frame | None:
        """Return the next frame; None at the end, and where it is among the frames: none came in time."""
        frame = self._frames.pop(0) if self._frames else None
        self.position += frame is not None
        return frame

    def latest(self, timeout: float | None = None) -> Frame | None:
        return self.next(timeout)

    def seek(self, position: int) -> None: ...

    def close(self) -> None: ...


def frame(scene: int, label: str | None = "cat") -> Frame:
    """A frame that shows the number of its scene."""
    return Frame(image=np.full((SIZE, SIZE, 3), scene, np.uint8), label=label, scene=scene, time=float(scene))


def batcher(
    frames: Sequence[Frame | None],
    *,
    size: int = 4,
    held_out_every: int = 0,
    length: int | None = None,
    keep: int = 100,
) -> Batcher:
    held_out = FrameMemory(keep, SIZE, seed=0)
    return Batcher(
        source=Replay(frames, length), size=size, image_size=SIZE, held_out_every=held_out_every, held_out=held_out
    )


def scenes(images: Pixels) -> list[int]:
    return [int(image[0, 0, 0]) for image in images]


def read(reader: Batcher) -> list[Batch]:
    return list(iter(reader.next, None))


def test_a_name_that_no_class_may_have_ends_it_before_it_is_learned() -> None:
    reader = batcher([frame(1), frame(2, "a" * 65)])
    with pytest.raises(SourceError, match="use 1 to 64 printable characters"):
        reader.next()


def test_the_last_batch_is_what_is_left() -> None:
    reader = batcher([frame(scene, "ab"[scene % 2]) for scene in range(10)])
    batches = read(reader)
    assert [scenes(batch.images) for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert batches[0].names == ["a", "b", "a", "b"]
    assert [batch.positions for batch in batches] == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]
    assert reader.next() is None
    assert reader.frames_read == 10


@pytest.mark.parametrize("held_out_every", [2, 3, 10])
def test_held_out_scenes_are_never_trained_on_in_any_epoch(held_out_every: int) -> None:
    scenes_met = [scene for scene in range(1, 21) for _ in range(3)]  # three frames of each
    reader = batcher([frame(scene) for scene in scenes_met * 3], held_out_every=held_out_every, keep=1000)
    trained = {scene for batch in read(reader) for scene in scenes(batch.images)}
    held_out = {int(image[0, 0, 0]) for _, image, _ in reader.held_out.all()}
    assert held_out == set(range(held_out_every, 21, held_out_every))
    assert trained == set(range(1, 21)) - held_out


@pytest.mark.parametrize(("length", "kept"), [(60, 10), (None, 30)])
def test_a_held_out_picture_that_comes_in_every_epoch_is_kept_once(length: int | None, kept: int) -> None:
    reader = batcher([frame(scene) for scene in range(1, 21)] * 3, held_out_every=2, length=length)
    read(reader)
    assert len(reader.held_out) == kept  # a stream without an end has no epochs, and would remember pictures for ever


def test_held_out_frames_fill_no_batch() -> None:
    batches = read(batcher([frame(scene) for scene in range(1, 17)], held_out_every=2))
    assert [len(batch.names) for batch in batches] == [4, 4]


def test_without_held_out_scenes_all_are_trained_on() -> None:
    reader = batcher([frame(scene) for scene in range(8)], held_out_every=0)
    assert [len(batch.names) for batch in read(reader)] == [4, 4]
    assert len(reader.held_out) == 0


def test_a_class_with_one_picture_is_learned_and_not_tested() -> None:
    reader = batcher([frame(scene, f"c{scene:02}") for scene in range(21)], held_out_every=10, length=21)
    assert {name for batch in read(reader) for name in batch.names} == {f"c{scene:02}" for scene in range(21)}
    assert len(reader.held_out) == 0


def test_the_scene_that_shows_a_class_first_is_trained_on_in_every_epoch_and_after_a_kill() -> None:
    first_dog, last_cats = frame(2, "dog"), [frame(4), frame(4)]
    epoch = [frame(0), frame(0), frame(1), first_dog, *last_cats, first_dog]
    one = batcher(epoch, held_out_every=2, length=14)
    trained = [scenes(batch.images) for batch in read(one)]
    assert trained == [[0, 0, 1, 2], [2]]
    other = batcher(epoch, held_out_every=2, length=14)
    other.restore(read_again(one.state()))
    assert [scenes(batch.images) for batch in read(other)] == trained
    assert {int(image[0, 0, 0]) for _, image, _ in one.held_out.all()} == {4}
    assert len(other.held_out) == 0


def edit(change: Change, name: str, to: str = "") -> ClassEdit:
    return ClassEdit(boot="0" * 16, sequence=0, number=1, change=change, name=name, to=to, session=0)


@pytest.mark.parametrize("change", [edit("rename", "cat", "dog"), edit("forget", "cat"), edit("undo", "cat")])
def test_what_was_held_out_before_a_class_edit_is_never_trained_on(change: ClassEdit) -> None:
    reader = batcher([frame(1), frame(2), frame(1), frame(2), frame(1)], size=2, held_out_every=2, length=5)
    reader.next()
    reader.apply(change)
    assert 2 not in {scene for batch in read(reader) for scene in scenes(batch.images)}


def test_a_class_that_is_taught_anew_is_learned_from_its_first_frame() -> None:
    reader = batcher([frame(1), frame(2), None, frame(4), frame(6)], held_out_every=2)
    assert reader.next() is None
    reader.apply(edit("forget", "cat"))
    assert [scenes(batch.images) for batch in read(reader)] == [[4]]
    reader = batcher([frame(0), None, frame(0, "dog"), frame(2, "dog")], held_out_every=2)
    assert reader.next() is None
    reader.apply(edit("rename", "cat", "dog"))
    assert [scenes(batch.images) for batch in read(reader)] == [[0, 0]]
    assert len(reader.held_out) == 1


def test_what_a_former_run_trained_on_is_not_tested_with() -> None:
    former = batcher([frame(0)], held_out_every=2)
    read(former)
    heir = batcher([frame(2), frame(0)], held_out_every=2)
    heir.inherit(read_again(former.state()))
    assert [scenes(batch.images) for batch in read(heir)] == [[0]]


def test_unlabelled_frames_are_counted_and_left_out() -> None:
    reader = batcher([frame(scene, None if scene % 4 else "cat") for scene in range(8)], held_out_every=4)
    assert [scenes(batch.images) for batch in read(reader)] == [[0]]
    assert (reader.unlabelled, len(reader.held_out), reader.frames_read) == (6, 1, 8)


def test_it_goes_on_where_another_one_stopped() -> None:
    frames = [frame(scene % 30, None if scene % 7 == 3 else "cat") for scene in range(300)]
    one = batcher(frames, held_out_every=3, length=300)
    for _ in range(12):
        one.next()
        one.learned()
    other = batcher(frames[one.frames_read :], held_out_every=3, length=300)
    other.restore(read_again(one.state()))
    other.held_out.restore(one.held_out.state())
    rest = [(read(reader), reader) for reader in (one, other)]
    for batches, reader in rest:
        assert [scenes(batch.images) for batch in batches] == [scenes(batch.images) for batch in rest[0][0]]
        assert len(reader.held_out) == 9, "a held-out picture is kept twice, or the one that was met first is held out"
        assert (reader.frames_read, reader.unlabelled) == (300, 43)
        assert reader.jpeg_bytes_per_image == one.jpeg_bytes_per_image


def test_a_batch_that_is_not_full_in_time_is_kept_for_the_next_call() -> None:
    reader = batcher([frame(1), None, frame(2), frame(3), None, frame(4), frame(5), None, frame(6)], size=4)
    batches = [reader.next(timeout=0.1) for _ in range(4)]
    assert [batch and scenes(batch.images) for batch in batches] == [None, None, [1, 2, 3, 4], None]
    assert not reader.ended
    last = reader.next(timeout=0.1)
    assert last is not None
    assert (scenes(last.images), last.positions) == ([5, 6], [5, 6])
    assert reader.ended


def test_a_batch_that_is_not_full_outlives_its_process() -> None:
    reader = batcher([frame(1), frame(2), None, frame(9)], size=4)
    assert reader.next() is None
    other = batcher([frame(3), frame(4)], size=4)
    other.restore(read_again(reader.state()))
    batch = other.next()
    assert batch is not None
    assert scenes(batch.images) == [1, 2, 3, 4]


def test_a_batch_is_of_one_phase_in_another_process_too() -> None:
    reader = batcher([frame(1), replace(frame(2), phase=1), None, frame(9)])
    batches = read(reader)
    other = batcher([])
    other.restore(read_again(reader.state()))
    assert [(batch.phase, scenes(batch.images)) for batch in (*batches, *read(other))] == [(0, [1]), (1, [2])]


def test_a_batch_that_is_not_learned_yet_outlives_its_process() -> None:
    frames = [lesson(scene, session) for scene, session in enumerate([1, 1, 2, 2, 2])]
    one = batcher(frames, size=3)
    batch = one.next()
    assert batch is not None
    state = read_again(one.state())
    other = batcher(frames[one.position :], size=3)
    other.restore(state)
    assert [scenes(batch.images) for batch in read(other)] == [[0, 1], [2, 3, 4]]
    assert (one.filled, scenes(batch.images)) == (0, [0, 1])
    one.learned()
    state = one.state()
    assert (state.names, state.images) == ([], None)
    assert [scenes(batch.images) for batch in read(one)] == [[2, 3, 4]]


def test_pictures_are_known_again_in_another_process() -> None:
    one = batcher([frame(1), frame(0)], held_out_every=2, length=2)
    read(one)
    assert one.state().marks.tolist() == [MARK_OF_BLACK]


def test_progress_is_the_share_of_the_source_that_is_read() -> None:
    reader = batcher([frame(scene) for scene in range(8)], length=16)
    assert reader.progress == 0
    reader.next()
    assert reader.progress == 0.25
    assert batcher([frame(0)], length=None).progress is None


def test_what_a_jpeg_would_cost_is_measured_on_some_frames() -> None:
    reader = batcher([frame(scene % 200) for scene in range(3 * JPEG_SAMPLED_EVERY)])
    assert reader.jpeg_bytes_per_image is None
    read(reader)
    sizes = []
    for scene in (0, JPEG_SAMPLED_EVERY, 2 * JPEG_SAMPLED_EVERY):
        file = io.BytesIO()
        Image.fromarray(frame(scene).image).save(file, "JPEG")
        sizes.append(file.tell())
    assert reader.jpeg_bytes_per_image == sum(sizes) / 3


def lesson(scene: int, session: int) -> Frame:
    return replace(frame(scene, "cat" if session else None), session=session)


def test_a_batch_is_of_one_lesson_whatever_is_unlabelled_in_between() -> None:
    reader = batcher([lesson(scene, session) for scene, session in enumerate([1, 0, 1, 0, 0, 2, 0, 2])])
    batches = read(reader)
    assert [(scenes(batch.images), batch.session) for batch in batches] == [([0, 2], 1), ([5, 7], 2)]
    assert reader.unlabelled == 4


def test_who_goes_on_behind_a_batch_loses_no_frame_of_the_next_lesson() -> None:
    frames = [lesson(scene, session) for scene, session in enumerate([1, 1, 0, 2, 2])]
    first = batcher(frames)
    batch = first.next()
    assert batch is not None
    assert scenes(batch.images) == [0, 1]
    assert first.position == 3
    first.learned()
    state = first.state()
    second = batcher(frames[first.position :])
    second.restore(state)
    assert [scenes(batch.images) for batch in read(second)] == [[3, 4]]
    assert [scenes(batch.images) for batch in read(first)] == [[3, 4]]
    assert first.position == 5


@pytest.mark.parametrize(
    ("change", "name", "to", "session", "names"),
    [("rename", "cat", "dog", 0, [["dog"]]), ("forget", "cat", "", 0, []), ("undo", "", "", 2, [])],
)
def test_an_edit_reaches_a_frame_that_waits_for_the_next_batch(
    change: Change, name: str, to: str, session: int, names: list[list[str]]
) -> None:
    reader = batcher([lesson(0, 1), lesson(1, 2)])
    reader.next()
    reader.learned()
    reader.apply(
        ClassEdit(boot="0" * 16, sequence=0, number=1, change=change, name=name, to=to, session=session),
    )
    assert [batch.names for batch in read(reader)] == names
