from __future__ import annotations

import numpy as np
import pytest

from broker.errors import MalformedMessage
from broker.link.mailbox import Mailbox
from broker.wire.messages import Command, CommandResult
from robot_edge.page.page_model import MAX_RESULTS, OwnResults, PageModel, Thumbnail, new_id


@pytest.fixture(name="page_model")
def _page_model() -> PageModel:
    return PageModel("r1", Mailbox(100))


def result(id_: str, text: str = "done") -> CommandResult:
    return CommandResult(id=id_, ok=True, done=True, text=text)


def test_a_page_acts_by_the_commands_that_come_over_mqtt_too(page_model: PageModel) -> None:
    id_ = page_model.give("teach", name=" mug ", seconds=10)
    assert page_model.commands.take(0) == Command(id=id_, action="teach", name="mug", to="", seconds=10)
    page_model.give("rename", name="mug", to="cup")
    renaming = page_model.commands.take(0)
    assert renaming is not None
    assert (renaming.name, renaming.to) == ("mug", "cup")


@pytest.mark.parametrize("name", ["x" * 65, "x" * 10_000, "a\nb", "\x00", "\ud800"])
def test_a_name_that_no_class_can_have_bothers_nobody(page_model: PageModel, name: str) -> None:
    with pytest.raises(MalformedMessage):
        page_model.give("teach", name=name, seconds=10)
    assert page_model.commands.take(0) is None


def test_markup_is_a_name_like_any_other(page_model: PageModel) -> None:
    page_model.give("teach", name="<img src=x onerror=alert(1)>", seconds=10)
    command = page_model.commands.take(0)
    assert command is not None
    assert command.name == "<img src=x onerror=alert(1)>"


def test_each_page_hears_of_its_own_commands_once(page_model: PageModel) -> None:
    one, other = OwnResults(page_model), OwnResults(page_model)
    mine, theirs = new_id(), new_id()
    one.expect(mine)
    other.expect(theirs)
    page_model.tell(result(mine, "a"))
    page_model.tell(result(theirs, "b"))
    page_model.tell(result("from-mqtt", "c"))
    page_model.tell(result(mine, "d"))
    assert [each.text for each in one.new()] == ["a", "d"]
    assert [each.text for each in other.new()] == ["b"]
    assert one.new() == other.new() == []


def test_a_page_that_is_left_open_keeps_little(page_model: PageModel) -> None:
    page = OwnResults(page_model, most=10)
    for number in range(10 * MAX_RESULTS):
        page.expect(str(number))
        page_model.tell(result(str(number)))
    assert len(page.new()) <= 10
    assert len(page_model.results(0)[1]) == MAX_RESULTS


def test_the_same_frame_has_the_same_mark() -> None:
    frame = np.zeros((8, 8, 3), np.uint8)
    assert Thumbnail.of(frame).mark == Thumbnail.of(frame.copy()).mark != Thumbnail.of(frame + 1).mark
