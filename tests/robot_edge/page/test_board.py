from __future__ import annotations

import numpy as np
import pytest

from broker.errors import MalformedMessage
from broker.link.mailbox import Mailbox
from broker.wire.messages import Command, CommandResult
from robot_edge.page.board import MOST_RESULTS, Board, OwnResults, Thumbnail, new_id


@pytest.fixture(name="board")
def _board() -> Board:
    return Board("r1", Mailbox(100))


def result(id_: str, text: str = "done") -> CommandResult:
    return CommandResult(id=id_, ok=True, done=True, text=text)


def test_a_page_acts_by_the_commands_that_come_over_mqtt_too(board: Board) -> None:
    id_ = board.give("teach", name=" mug ", seconds=10)
    assert board.commands.take(0) == Command(id=id_, action="teach", name="mug", to="", seconds=10)
    board.give("rename", name="mug", to="cup")
    renaming = board.commands.take(0)
    assert renaming is not None
    assert (renaming.name, renaming.to) == ("mug", "cup")


@pytest.mark.parametrize("name", ["x" * 65, "x" * 10_000, "a\nb", "\x00", "\ud800"])
def test_a_name_that_no_class_can_have_bothers_nobody(board: Board, name: str) -> None:
    with pytest.raises(MalformedMessage):
        board.give("teach", name=name, seconds=10)
    assert board.commands.take(0) is None


def test_markup_is_a_name_like_any_other(board: Board) -> None:
    board.give("teach", name="<img src=x onerror=alert(1)>", seconds=10)
    command = board.commands.take(0)
    assert command is not None
    assert command.name == "<img src=x onerror=alert(1)>"


def test_each_page_hears_of_its_own_commands_once(board: Board) -> None:
    one, other = OwnResults(board), OwnResults(board)
    mine, theirs = new_id(), new_id()
    one.expect(mine)
    other.expect(theirs)
    board.tell(result(mine, "a"))
    board.tell(result(theirs, "b"))
    board.tell(result("from-mqtt", "c"))
    board.tell(result(mine, "d"))
    assert [each.text for each in one.new()] == ["a", "d"]
    assert [each.text for each in other.new()] == ["b"]
    assert one.new() == other.new() == []


def test_a_page_that_is_left_open_keeps_little(board: Board) -> None:
    page = OwnResults(board, most=10)
    for number in range(10 * MOST_RESULTS):
        page.expect(str(number))
        board.tell(result(str(number)))
    assert len(page.new()) <= 10
    assert len(board.results(0)[1]) == MOST_RESULTS


def test_the_same_frame_has_the_same_mark() -> None:
    frame = np.zeros((8, 8, 3), np.uint8)
    assert Thumbnail.of(frame).mark == Thumbnail.of(frame.copy()).mark != Thumbnail.of(frame + 1).mark
