from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass, field

import pytest

from broker.errors import ConfigError
from hierarchy.runtime.settings import flat_fields, flattened, from_flat


@dataclass(frozen=True, kw_only=True)
class Wheels:
    count: int = 4
    spare: bool = False


@dataclass(frozen=True, kw_only=True)
class Car:
    name: str
    wheels: Wheels = field(default_factory=Wheels)


def test_groups_are_dissolved_and_built() -> None:
    car = from_flat(Car, {"name": "a", "count": 3})
    assert car == Car(name="a", wheels=Wheels(count=3))
    assert flattened(car) == {"name": "a", "count": 3, "spare": False}
    assert list(flat_fields(Car)) == ["name", "count", "spare"]
    with pytest.raises(FrozenInstanceError):
        car.wheels.count = 5  # type: ignore[misc]


def test_a_name_that_there_is_not_gets_the_one_that_is_meant() -> None:
    with pytest.raises(ConfigError, match=r"no setting is called cuont; did you mean count\?"):
        from_flat(Car, {"name": "a", "cuont": 3})
    with pytest.raises(ConfigError, match="no setting is called wheels"):
        from_flat(Car, {"name": "a", "wheels": Wheels()})
    with pytest.raises(ConfigError, match="the setting name is missing"):
        from_flat(Car, {"count": 3})
