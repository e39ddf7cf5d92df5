from __future__ import annotations

import pytest

from broker import errors
from broker.errors import EXIT_BUG, ReflexarcError, exit_status


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.ConfigError, 2),
        (errors.CutError, 2),
        (errors.CrossingError, 2),
        (errors.SourceError, 2),
        (errors.PayloadTooLarge, 2),
        (errors.AccessDenied, 2),
        (errors.NameTaken, 2),
        (errors.NotOpen, 2),
        (errors.MalformedMessage, 4),
        (errors.BrokerUnavailable, 4),
        (errors.DownloadFailed, 4),
        (errors.NotEntered, 4),
        (errors.NoAnswer, 4),
        (errors.MachineError, 1),
        (errors.StorageError, 1),
        (errors.Superseded, 1),
        (errors.OutOfMemory, 1),
        (errors.Diverged, 1),
        (errors.NothingDone, 3),
        (KeyboardInterrupt, 130),
        (KeyError, EXIT_BUG),
    ],
)
def test_the_status_says_whose_turn_it_is(error: type[BaseException], status: int) -> None:
    assert exit_status(error("")) == status


def test_each_error_of_ours_is_somebody_s_turn() -> None:
    kinds = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, ReflexarcError)]
    assert [one.__name__ for one in kinds if exit_status(one.__new__(one)) == EXIT_BUG] == ["ReflexarcError"]
    assert [one.__name__ for one in kinds if one.__name__ not in str(errors.__doc__)] == []
