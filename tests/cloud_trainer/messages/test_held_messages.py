from __future__ import annotations

from broker.link.inbox import Delivery
from cloud_trainer.messages.held_messages import HELD_BYTES, MAX_HELD, Held


def delivery(size: int, number: int = 0) -> Delivery:
    return Delivery(str(number), bytes(size), retained=False)


def test_each_robot_s_messages_come_out_in_their_order() -> None:
    held = Held()
    for number in range(4):
        held.add(f"r{number % 2}", delivery(1, number))
    assert [one.topic for one in held.release("r1")] == ["1", "3"]
    assert held.release("r1") == []
    assert [one.topic for one in held.release("r0")] == ["0", "2"]
    assert len(held) == 0


def test_number_and_bytes_are_bounded_and_free_again() -> None:
    held = Held()
    for _ in range(2 * MAX_HELD):
        held.add("r1", delivery(1))
    assert len(held.release("r1")) == MAX_HELD
    for _ in range(3):
        for _ in range(40):
            held.add("r1", delivery(HELD_BYTES // 20))
        assert len(held.release("r1")) == 20
