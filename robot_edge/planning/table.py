"""What a person sees of a plan."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from hierarchy.runtime.console import PlainConsole
from robot_edge.planning.config import PlanConfig
from robot_edge.planning.exit_places import ExitCost, LabelledFrames
from robot_edge.planning.probing import LinkRate
from robot_edge.planning.runtime_model import Option, best_of_each, tells_little

# Rows of the table; the rest are slower.
SHOWN = 20


def print_table(
    config: PlanConfig, rate: LinkRate, found: list[Option], best: Option | None, blind: float | None = None
) -> None:
    """Print the best number of bits for each cut and bottleneck: the plan, then the others, the fastest first.

    best: None where all leak too much. blind: what an attack has to beat, where there was one.
    """
    bounds = config.bounds
    best_bits = sorted(best_of_each(found, **bounds), key=lambda one: one != best)
    left_out = f"at least {bounds['least_codes']:,.0f} bytes of codes an image (--least-share)"
    still = config.run.network.stands_still
    if still:
        left_out = "the network stands still: its head alone learns"
    elif config.run.network.privacy != "off":
        left_out = f"what --privacy {config.run.network.privacy} lets cross"
    if config.most_memory_mb:
        left_out += f", at most {config.most_memory_mb:g} MB on the robot (--most-memory-mb)"
    network = config.run.network
    table = Table(
        title=f"{network.backbone}, {network.image_size} pixels; link {rate.goodput * 8 / 1e6:.2f} Mbit/s"
        f"{' (--mbit)' if config.mbit else ''}, round trip {rate.round_trip * 1e3:.0f} ms",
        title_justify="left",
        caption=left_out,
        caption_justify="left",
    )
    # Where leaks are shown there is no room for both rates on a line of 80.
    fourth, rate_in_turn = (("leak",), ()) if blind is not None else ((), ("in turn",))
    for column in ("cut", "channels", "bits", "bytes", *fourth, "MB", "images/s", *rate_in_turn, "slowest"):
        # Only the name of a cut may take several lines: it is the long one, and is to be copied.
        folds = {"overflow": "fold"} if column == "cut" else {"no_wrap": True}
        table.add_column(column, justify="left" if column in {"cut", "slowest"} else "right", **folds)
    for one in best_bits[:SHOWN]:
        table.add_row(
            one.cut,
            f"{one.bottleneck or 'all'}{f', {one.pool} x {one.pool}' if one.pool else ''}",
            str(one.bits),
            f"{one.sent:,.0f}",
            *((_leak(one, config.most_leak),) if fourth else ()),
            f"{one.memory / 1e6:.1f}",
            _rate(one.pipelined),
            *((_rate(one.serial),) if rate_in_turn else ()),
            one.limit,
            style="bold" if one == best else None,
        )
    console = PlainConsole()
    console.print(table)
    takes = (
        "weights, and the largest activations of a frame," if still else "weights, gradients, momentum and activations"
    )
    in_turn = "; in turn: one batch after the other" if rate_in_turn else ""
    console.print(
        f"bytes: sent for an image. MB: {takes} on the robot. images/s: robot, link and cloud at the same "
        f"time{in_turn}.",
        highlight=False,
    )
    if blind is not None:
        _print_attack(console, config, best, blind)


def _print_attack(console: PlainConsole, config: PlanConfig, best: Option | None, blind: float) -> None:
    """Print what the figures of leaks mean, and how many frames are recognised of the plan's."""
    front = "as it stays" if config.run.network.stands_still else "as a run begins with it"
    console.print(
        f"leak: similarity of frames and what a quick attack makes of them, 1 for a copy; {blind:.2f} without any "
        f"activation. !: more than --most-leak {config.most_leak:g}. ?: too large to attack. The front is attacked "
        f"{front}. Who has more frames and time sees more.",
        highlight=False,
    )
    if best and best.found is not None:
        console.print(f"The attack recognises {100 * best.found:.0f} % of frames in the plan's.", highlight=False)


def print_exits(exits: Sequence[ExitCost], *, best: str, tested: LabelledFrames | None) -> None:
    """Print what each exit costs and knows. best: the cut of the plan's; empty for the one at the end."""
    table = Table(title="The exit", title_justify="left")
    for column in ("exit", "ms a frame", "MB", "right"):
        table.add_column(column, justify="left" if column == "exit" else "right")
    for one in exits:
        right = "-" if one.accuracy is None else f"{100 * one.accuracy:.1f} %"
        where = one.cut or "end, behind the whole network"
        style = "bold" if one.cut == best else None
        table.add_row(where, f"{1e3 * one.seconds:.1f}", f"{one.memory / 1e6:.1f}", right, style=style)
    console = PlainConsole()
    console.print(table)
    said = "not known, as the source has too few labelled frames"
    if tested:
        count, classes = len(tested.names), len(set(tested.names))
        said = f"a head fitted to half of {count} labelled frames of {classes} classes, on the other half"
    console.print(f"right: {said}.", highlight=False)


def _leak(option: Option, most_leak: float) -> str:
    if option.leak is None:
        return "?"
    return f"{option.leak:.2f}{'' if tells_little(option, most_leak) else ' !'}"


def _rate(per_second: float) -> str:
    return f"{per_second:,.0f}" if per_second >= 10 else f"{per_second:.2g}"
