"""Where a trainer's store is: a path, or the URL of a PostgreSQL database. Opens either."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from urllib.parse import urlsplit

from broker.errors import ConfigError
from broker.program.paths import typed_path
from cloud_trainer.config import SCHEMES, TrainingSettings
from cloud_trainer.store.log import Store
from cloud_trainer.store.sqlite import SqliteStore
from cloud_trainer.store.sqlite_file import LAYOUT, MOVED

# In a run's folder.
STORE = "store.db"

# sqlite's header up to the number of the application, four bytes.
SIGNED_BYTES = 72

# Of a store: a file, or the URL of a database.
Place = Path | str


def store_place(text: str) -> Place:
    """Return where a store is that somebody named. Raises ConfigError for another URL, or one with a password."""
    if not text.startswith(SCHEMES):
        if "://" in text:
            raise ConfigError(f"{text}: a store is a file, or postgresql://USER@HOST/DATABASE")
        return typed_path(text)
    if urlsplit(text).password:
        raise ConfigError(
            "the store's URL holds a password, which config.toml and every process list would show: put it into "
            "~/.pgpass or the environment variable PGPASSWORD"
        )
    return text


def is_there(place: Place) -> bool:
    """Whether there may be a store."""
    return isinstance(place, str) or place.exists()


def has_moved(place: Place) -> bool:
    """Whether a file was one, and has moved: a database says so itself when it is opened."""
    return isinstance(place, Path) and not place.exists() and place.with_name(place.name + MOVED).exists()


def open_store(place: Place, settings: TrainingSettings, *, anew: bool = False) -> Store:
    """Open a run's store, or make one. anew: also where one was that has moved away.

    Raises ConfigError where it was made with other settings, and StorageError where its server is away.
    """
    store = _open(place, asdict(settings), anew=anew)
    try:
        _check_settings(store, place, settings)
    except ConfigError:
        store.close()
        raise
    return store


def open_again(place: Place, beside: Store | None = None, *, waits: bool = False) -> Store:
    """Open a store that is there, for one more thread, or to look into it.

    beside: a store of this process, whose claims it shares. waits: where the server is away, reading waits for it,
    until `Store.give_up`. Raises ConfigError where there is none, and StorageError.
    """
    store = _open(place, None, waits=waits)
    if beside:
        store.claims = beside.claims
    return store


def check_store(place: Place, settings: TrainingSettings) -> None:
    """Raise ConfigError where a store that is there was made with other settings. Nothing is written."""
    if isinstance(place, Path) and not _is_store(place):
        return  # `open_store` says what is wrong
    if isinstance(place, str):
        return  # nothing is made before a run is refused: `open_store` compares
    with closing(open_again(place)) as store:
        _check_settings(store, place, settings)


def _is_store(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            application = file.read(SIGNED_BYTES)[-4:]
    except OSError:
        return False
    return int.from_bytes(application, "big") == LAYOUT.application


def _open(place: Place, settings: dict[str, object] | None, *, waits: bool = False, anew: bool = False) -> Store:
    if isinstance(place, Path):
        return SqliteStore(place, settings)
    try:
        from cloud_trainer.store.postgres import PostgresStore
    except ImportError as error:
        raise ConfigError(f"{place}: {error}: pip install 'reflexarc[cluster]'") from error
    return PostgresStore(place, settings, waits=waits, anew=anew)


def _check_settings(store: Store, place: Place, settings: TrainingSettings) -> None:
    now = asdict(settings)
    for name, value in store.settings.items():
        if now.get(name) != value:
            raise ConfigError(
                f"{place} was made with --{name.replace('_', '-')} {value}, now it is {now.get(name)}: training must "
                "go on as it began; use the same setting or another --run-dir"
            )
