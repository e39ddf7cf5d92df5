from __future__ import annotations

from robot_edge.outbox import RESEND_AFTER_SECONDS, Outbox


def filled(count: int, *, window: int = 3, limit: int = 100) -> Outbox:
    outbox = Outbox(window, limit)
    for sequence in range(count):
        outbox.put(sequence, b"x" * 10, samples=4)
    return outbox


def send_due(outbox: Outbox, now: float) -> list[int]:
    sequences = [sequence for sequence, _ in outbox.due(now)]
    for sequence in sequences:
        outbox.sent(sequence, now)
    return sequences


def test_the_window_bounds_what_is_on_the_way() -> None:
    outbox = filled(5)
    assert send_due(outbox, 0.0) == [0, 1, 2]
    assert send_due(outbox, 1.0) == []
    outbox.receipted(1)
    assert send_due(outbox, 1.0) == [3]
    outbox.receipted(0)
    outbox.receipted(2)
    assert send_due(outbox, 1.0) == [4]


def test_what_was_not_sent_stays_due() -> None:
    outbox = filled(2)
    assert [sequence for sequence, _ in outbox.due(0.0)] == [0, 1]
    outbox.sent(0, 0.0)
    assert [sequence for sequence, _ in outbox.due(0.0)] == [1]


def test_what_has_no_receipt_is_sent_again_in_time() -> None:
    outbox = filled(2)
    send_due(outbox, 100.0)
    outbox.receipted(0)
    assert send_due(outbox, 100.0 + RESEND_AFTER_SECONDS) == []
    assert send_due(outbox, 100.1 + RESEND_AFTER_SECONDS) == [1]
    assert send_due(outbox, 100.2 + RESEND_AFTER_SECONDS) == []


def test_all_is_sent_again_to_a_new_trainer() -> None:
    outbox = filled(5)
    send_due(outbox, 0.0)
    outbox.receipted(0)
    outbox.send_all_again()
    assert send_due(outbox, 0.1) == [1, 2, 3]


def test_receipts_free_it_once() -> None:
    outbox = filled(10)
    assert (len(outbox), outbox.bytes_held, outbox.samples_held, outbox.full) == (10, 100, 40, True)
    assert outbox.receipted(7) == 10
    assert outbox.receipted(7) is None
    assert outbox.receipted(99) is None
    assert (len(outbox), outbox.bytes_held, outbox.samples_held, outbox.full) == (9, 90, 36, False)
    for sequence in range(10):
        outbox.receipted(sequence)
    assert (len(outbox), outbox.bytes_held, outbox.samples_held) == (0, 0, 0)
