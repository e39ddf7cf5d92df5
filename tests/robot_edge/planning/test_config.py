from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from broker.errors import ConfigError
from broker.security.credentials import Credentials
from robot_edge.planning.config import PlanConfig
from robot_edge.planning.verification import check_name_to_verify


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"source": "camera:0", "verify": True}, "needs labels"),
        ({"source": "sim:", "live": True, "verify": True}, "needs labels"),
        ({"source": "sim:", "mbit": 1.0, "verify": True}, "leave one out"),
        ({"source": "sim:", "weights": "runs/r1"}, "divided already"),
        ({"source": "sim:", "verify_as": "a b"}, "--verify-as"),
        ({"source": "sim:", "least_share": 2.0}, "--least-share"),
        ({"source": "sim:", "most_leak": 1.1}, "--most-leak"),
    ],
)
def test_what_cannot_be_planned_is_said_at_once(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        PlanConfig.from_flags(**settings)


def test_out_is_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder"):
        PlanConfig.from_flags(source="sim:", out=str(tmp_path))


def test_a_plan_is_verified_under_another_name() -> None:
    config = PlanConfig.from_flags(source="sim:", robot="r1")
    assert config.verifying_robot == "r1-verify"
    check_name_to_verify(config, Credentials())
    known = Credentials(username="r1", password="secret")
    with pytest.raises(ConfigError, match="--verify-as r1"):
        check_name_to_verify(config, known)
    check_name_to_verify(PlanConfig.from_flags(source="sim:", robot="r1", verify_as="r1"), known)
