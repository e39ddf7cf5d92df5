"""What the processes of a cluster tell each other, in tables beside the log: who trains on what, and who said what.

A row that somebody has to look at is found by a partial index. So no question costs more for robots that are idle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from broker.wire.codec import pack, unpack_as
from broker.wire.messages import RobotState
from cloud_trainer.store.postgres_connection import Connection

# An actor that has said nothing for so long may be taken for dead: whoever takes its logs fences it off.
DEAD_SECONDS = 15.0

# "rflc": held by whoever makes the tables; one more by the coordinator, for as long as it lives.
MAKING, COORDINATING = 0x72666C63, 0x72666C64

# members: processes, with the boot of the present one, when it said something last, and its figures. woken, seen: rise
# where somebody wants a log looked at, and where its actor has. holder: the actor that has its network in memory.
# saved_at: the event behind which the checkpoint goes on. said, answered: how many states a robot has said, and up to
# which of them its actor has answered: with what was entered, or with why not. news: its ingest has something to read.
TABLES = """
CREATE TABLE IF NOT EXISTS cluster_members (
    name text PRIMARY KEY, role text NOT NULL, boot text NOT NULL, place text NOT NULL,
    seen timestamptz NOT NULL DEFAULT now(), figures text NOT NULL DEFAULT ''
);
CREATE TABLE IF NOT EXISTS cluster_logs (
    name text PRIMARY KEY, actor text NOT NULL DEFAULT '', holder text NOT NULL DEFAULT '',
    woken bigint NOT NULL DEFAULT 0, seen bigint NOT NULL DEFAULT 0, saved_at bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 70);
CREATE INDEX IF NOT EXISTS cluster_woken ON cluster_logs (actor) WHERE woken > seen;
CREATE INDEX IF NOT EXISTS cluster_held ON cluster_logs (holder) WHERE holder <> '';
CREATE INDEX IF NOT EXISTS cluster_of_actor ON cluster_logs (actor);
CREATE TABLE IF NOT EXISTS cluster_robots (
    name text PRIMARY KEY, ingest integer NOT NULL, log text NOT NULL, state bytea NOT NULL, online boolean NOT NULL,
    said bigint NOT NULL DEFAULT 1, answered bigint NOT NULL DEFAULT 0, entered bytea, entered_log text,
    refused text NOT NULL DEFAULT '', waits text NOT NULL DEFAULT '', report text NOT NULL DEFAULT '',
    news boolean NOT NULL DEFAULT false
) WITH (fillfactor = 70);
CREATE INDEX IF NOT EXISTS cluster_said ON cluster_robots (log) WHERE said > answered;
CREATE INDEX IF NOT EXISTS cluster_news ON cluster_robots (ingest) WHERE news;
"""

# Of all actors the one with the fewest logs that it answers for.
OWN = """
INSERT INTO cluster_logs (name, actor) VALUES (%s, coalesce((
    SELECT m.name FROM cluster_members m LEFT JOIN cluster_logs l ON l.actor = m.name
    WHERE m.role = 'actor' AND m.seen > now() - make_interval(secs => %s) GROUP BY m.name
    ORDER BY count(l.name), m.name LIMIT 1
), '')) ON CONFLICT DO NOTHING
"""
HOLD = """
UPDATE cluster_logs SET holder = %s WHERE name = %s AND actor = %s
AND EXISTS (SELECT 1 FROM cluster_members WHERE name = %s AND boot = %s)
AND (holder IN ('', %s) OR NOT EXISTS (
    SELECT 1 FROM cluster_members m WHERE m.name = holder AND m.seen > now() - make_interval(secs => %s)
)) RETURNING 1
"""
LET_GO = """
UPDATE cluster_logs SET holder = '', saved_at = %s WHERE name = %s AND holder = %s
AND EXISTS (SELECT 1 FROM cluster_members WHERE name = %s AND boot = %s)
"""


@dataclass(frozen=True, kw_only=True)
class Said:
    """A state that a robot has said, and nobody has answered. number: of those that it has said."""

    robot: str
    state: RobotState
    online: bool
    number: int


@dataclass(frozen=True, kw_only=True)
class News:
    """What is known of a robot's training. entered: the last state in a log, ``log``; None for none.

    answers: the number of the state that ``refused`` and ``waits`` are about. report: as in `reports.py`.
    """

    robot: str
    log: str
    entered: RobotState | None
    refused: str
    waits: str
    answers: int
    said: int
    report: str


@dataclass(frozen=True, kw_only=True)
class Member:
    """A process of the cluster. silent: seconds since it said something. logs: that are its own, held: in memory."""

    name: str
    role: str
    place: str
    silent: float
    figures: str
    logs: int
    held: int

    @property
    def gone(self) -> bool:
        """Whether it may be taken for dead."""
        return self.silent > DEAD_SECONDS


@dataclass(frozen=True, kw_only=True)
class Listed:
    """What is known of a robot. log: that it belongs to, with its actor and epoch. metrics: that it said last."""

    robot: str
    log: str
    actor: str
    epoch: int
    online: bool
    refused: str
    waits: str
    report: str
    metrics: bytes | None


class Board:
    """The tables, for one thread. All questions raise StorageError, and may be asked twice where a connection broke."""

    def __init__(self, place: str, *, waits: bool = False) -> None:
        """Connect. waits: for a server that is away. Raises StorageError."""
        self._connection = Connection(place, waits=waits)

    def make(self) -> None:
        """Make the tables, where there are none."""
        self._ask("SELECT pg_advisory_lock(%s)", MAKING)
        try:
            for one in filter(str.strip, TABLES.split(";")):
                self._ask(one)
        finally:
            self._ask("SELECT pg_advisory_unlock(%s)", MAKING)

    def become_coordinator(self) -> bool:
        """Return whether nobody else runs a cluster on this store; then nobody can until this connection ends.

        The tables have to be there.
        """
        locked = (
            "SELECT pg_try_advisory_lock(%s, 'cluster_members'::regclass::oid::integer)"  # a database has many stores
        )
        return bool(self._ask(locked, COORDINATING)[0][0])

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _ask(self, query: str, *values: object) -> list[tuple[object, ...]]:
        return self._connection.read(query, values)

    # Members

    def join(self, name: str, role: str, boot: str, place: str) -> None:
        """Become the process of that name, in place of a former one."""
        self._ask(
            "INSERT INTO cluster_members (name, role, boot, place) VALUES (%s, %s, %s, %s) ON CONFLICT (name) "
            "DO UPDATE SET role = EXCLUDED.role, boot = EXCLUDED.boot, place = EXCLUDED.place, seen = now()",
            *(name, role, boot, place),
        )

    def beat(self, name: str, boot: str, figures: str = "") -> bool:
        """Say that one is there; return whether one still is the process of that name."""
        return bool(
            self._ask(
                "UPDATE cluster_members SET seen = now(), figures = %s WHERE name = %s AND boot = %s RETURNING 1",
                *(figures, name, boot),
            )
        )

    def leave(self, names: Sequence[str]) -> None:
        """Let members be no more."""
        self._ask("DELETE FROM cluster_members WHERE name = ANY(%s)", list(names))

    def there(self, silent: float) -> list[str]:
        """Return the names of actors that were silent for no longer than that, in seconds."""
        rows = self._ask(
            "SELECT name FROM cluster_members WHERE role = 'actor' AND seen > now() - make_interval(secs => %s)", silent
        )
        return sorted(str(row[0]) for row in rows)

    def members(self) -> list[Member]:
        """Return all processes; none where there never was a cluster. It counts all logs: for people."""
        if self._ask("SELECT to_regclass('cluster_members') IS NULL")[0][0]:
            return []
        rows = self._ask(
            "SELECT m.name, m.role, m.place, extract(epoch FROM now() - m.seen)::float8, m.figures, "
            "(SELECT count(*) FROM cluster_logs l WHERE l.actor = m.name), "
            "(SELECT count(*) FROM cluster_logs l WHERE l.holder = m.name) FROM cluster_members m ORDER BY m.name"
        )
        return [
            Member(name=n, role=r, place=p, silent=s, figures=f, logs=o, held=h)  # type: ignore[arg-type]
            for n, r, p, s, f, o, h in rows
        ]

    def robots(self) -> list[Listed]:
        """Return all robots, by name: for people. It reads the store's tables, too."""
        rows = self._ask(
            "SELECT r.name, r.its, coalesce(l.actor, ''), coalesce(e.epoch, 0), r.online, r.refused, r.waits, "
            "r.report, m.payload FROM (SELECT *, coalesce(nullif(entered_log, ''), log) AS its FROM cluster_robots) r "
            "LEFT JOIN cluster_logs l ON l.name = r.its LEFT JOIN logs e ON e.name = r.its "
            "LEFT JOIN metrics m ON m.robot = r.name ORDER BY r.name"
        )
        return [
            Listed(robot=r, log=g, actor=a, epoch=e, online=o, refused=f, waits=w, report=p, metrics=m)  # type: ignore[arg-type]
            for r, g, a, e, o, f, w, p, m in rows
        ]

    # Ingest

    def say(self, robot: str, log: str, state: RobotState, *, online: bool, ingest: int = 0) -> None:
        """Put up what a robot has said of itself, and let its log's actor look at it. ingest: the number of its own."""
        self._own(log)
        self._ask(
            "INSERT INTO cluster_robots (name, ingest, log, state, online) VALUES (%s, %s, %s, %s, %s) "
            "ON CONFLICT (name) DO UPDATE SET ingest = EXCLUDED.ingest, log = EXCLUDED.log, "
            "state = EXCLUDED.state, online = EXCLUDED.online, "
            "said = cluster_robots.said + 1",
            *(robot, ingest, log, pack(state), online),
        )

    def _own(self, log: str) -> None:
        """Let a log have an actor: it stays with the one that it has while that is there."""
        self._ask(OWN, *(log, DEAD_SECONDS))

    def wake(self, logs: Sequence[str]) -> None:
        """Have logs looked at for a while: something is about to be committed to them."""
        self._ask("UPDATE cluster_logs SET woken = woken + 1 WHERE name = ANY(%s)", sorted(logs))

    def known(self, robot: str) -> News | None:
        """Return what is known of a robot."""
        found = self._news("SELECT {} FROM cluster_robots WHERE name = %s", robot)
        return found[0] if found else None

    def news(self, ingest: int = 0) -> list[News]:
        """Return what is new of robots of an ingest, once."""
        return self._news("UPDATE cluster_robots SET news = false WHERE news AND ingest = %s RETURNING {}", ingest)

    def _news(self, query: str, *values: object) -> list[News]:
        columns = "name, coalesce(entered_log, ''), entered, refused, waits, answered, said, report"
        return [
            News(
                robot=name,  # type: ignore[arg-type]
                log=log,  # type: ignore[arg-type]
                entered=unpack_as(RobotState, entered) if entered else None,  # type: ignore[arg-type]
                refused=refused,  # type: ignore[arg-type]
                waits=waits,  # type: ignore[arg-type]
                answers=answers,  # type: ignore[arg-type]
                said=said,  # type: ignore[arg-type]
                report=report,  # type: ignore[arg-type]
            )
            for name, log, entered, refused, waits, answers, said, report in self._ask(query.format(columns), *values)
        ]

    # Actors

    def owned(self, actor: str) -> dict[str, int]:
        """Return an actor's logs, with where their checkpoints are. All of them, so only at its start."""
        return dict(self._ask("SELECT name, saved_at FROM cluster_logs WHERE actor = %s", actor))  # type: ignore[arg-type]

    def woken(self, actor: str) -> dict[str, int]:
        """Return those of an actor's logs that somebody wants looked at, once, with where their checkpoints are."""
        return dict(
            self._ask(  # type: ignore[arg-type]
                "UPDATE cluster_logs SET seen = woken WHERE actor = %s AND woken > seen RETURNING name, saved_at", actor
            )
        )

    def said(self, actor: str) -> list[Said]:
        """Return the states that nobody has answered of robots that belong to an actor's logs."""
        rows = self._ask(
            "SELECT r.name, r.state, r.online, r.said FROM cluster_robots r JOIN cluster_logs l ON l.name = r.log "
            "WHERE r.said > r.answered AND l.actor = %s",
            actor,
        )
        return [
            Said(robot=r, state=unpack_as(RobotState, s), online=o, number=n)  # type: ignore[arg-type]
            for r, s, o, n in rows
        ]

    def hold(self, log: str, actor: str, boot: str) -> bool:
        """Take a log's network into memory; False where it is another's by now, or that one has not let go of it."""
        return bool(self._ask(HOLD, *(actor, log, actor, actor, boot, actor, DEAD_SECONDS)))

    def logs_of(self, robots: Sequence[str], actor: str) -> list[str]:
        """Return those of an actor's logs that any of those robots has entered last."""
        rows = self._ask(
            "SELECT DISTINCT l.name FROM cluster_robots r JOIN cluster_logs l ON l.name = r.entered_log "
            "WHERE r.name = ANY(%s) AND r.entered IS NOT NULL AND l.actor = %s",
            *(list(robots), actor),
        )
        return [str(row[0]) for row in rows]

    def is_of(self, log: str, actor: str) -> bool:
        """Whether a log is an actor's."""
        return bool(self._ask("SELECT 1 FROM cluster_logs WHERE name = %s AND actor = %s", log, actor))

    def let_go(self, log: str, actor: str, boot: str, saved_at: int) -> None:
        """Let a log's network rest behind a checkpoint."""
        self._ask(LET_GO, *(saved_at, log, actor, actor, boot))

    def moved(self, actor: str) -> list[str]:
        """Return the logs whose networks an actor has in memory, and which are another's by now."""
        rows = self._ask("SELECT name FROM cluster_logs WHERE holder = %s AND actor <> holder", actor)
        return [str(row[0]) for row in rows]

    def held(self, actor: str) -> set[str]:
        """Return the logs whose networks an actor has in memory."""
        return {str(row[0]) for row in self._ask("SELECT name FROM cluster_logs WHERE holder = %s", actor)}

    def answer(self, said: Said, *, log: str, entered: RobotState | None, refused: str = "", waits: str = "") -> None:
        """Answer a robot's state."""
        self._ask(
            "UPDATE cluster_robots SET answered = %s, entered = %s, entered_log = %s, refused = %s, waits = %s, "
            "news = true WHERE name = %s",
            *(said.number, pack(entered) if entered else None, log, refused, waits, said.robot),
        )

    def note(self, said: Said) -> None:
        """Note that a robot's state is known, where it asks for nothing."""
        self._ask("UPDATE cluster_robots SET answered = %s WHERE name = %s", *(said.number, said.robot))

    def report(self, reports: dict[str, str]) -> None:
        """Put up how training on robots' samples stands."""
        if reports:
            self._ask(
                "UPDATE cluster_robots r SET report = new.report, news = true "
                "FROM unnest(%s::text[], %s::text[]) AS new(name, report) WHERE r.name = new.name",
                *(list(reports), list(reports.values())),
            )

    # The coordinator

    def move(self, log: str, actor: str) -> bool:
        """Let a log be another actor's; whether there is such a log."""
        return bool(
            self._ask(
                "UPDATE cluster_logs SET actor = %s, woken = woken + 1 WHERE name = %s RETURNING 1", *(actor, log)
            )
        )

    def log_of(self, robot: str) -> str:
        """Return the log that a robot belongs to; empty where it is not known."""
        rows = self._ask("SELECT log FROM cluster_robots WHERE name = %s", robot)
        return str(rows[0][0]) if rows else ""

    def adopt(self, logs: Sequence[str]) -> None:
        """Let logs have actors that have none, as those of a run that another trainer began."""
        for log in logs:
            self._own(log)
        self.wake(logs)

    def shares(self) -> list[tuple[str, str, bool]]:
        """Return all logs with their actors, and whether their networks are in memory."""
        return self._ask("SELECT name, actor, holder <> '' FROM cluster_logs ORDER BY name")  # type: ignore[return-value]
