"""What a person sees of a plan."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from hierarchy.runtime.console import PlainConsole
from robot_edge.planning.config import PlanConfig
from robot_edge.planning.exit_places import ExitCost, LabelledFrames
from robot_edge.planning.probing import LinkRate
from robot_edge.planning.runtime_model import Option, choose, fits

# Rows of the table; the rest are slower.
SHOWN = 20


def print_table(config: PlanConfig, rate: LinkRate, found: list[Option], best: Option) -> None:
    """Print the best number of bits for each cut and bottleneck: the plan, then the others, the fastest first."""
    bounds = config.bounds
    fitting = [one for one in found if fits(one, **bounds)]
    best_bits = [best] + [
        choose([one for one in fitting if (one.cut, one.bottleneck) == candidate], **bounds)
        for candidate in dict.fromkeys((one.cut, one.bottleneck) for one in fitting)
        if candidate != (best.cut, best.bottleneck)
    ]
    left_out = f"at least {bounds['least_codes']:,.0f} bytes of codes an image (--least-share)"
    still = config.run.network.stands_still
    if still:
        left_out = "the network stands still: its head alone learns"
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
    for column in ("cut", "channels", "bits", "bytes", "MB", "images/s", "in turn", "slowest"):
        # Only the name of a cut may take several lines: it is the long one, and is to be copied.
        folds = {"overflow": "fold"} if column == "cut" else {"no_wrap": True}
        table.add_column(column, justify="left" if column in {"cut", "slowest"} else "right", **folds)
    for one in best_bits[:SHOWN]:
        table.add_row(
            one.cut,
            f"{one.bottleneck or 'all'}{f', {one.pool} x {one.pool}' if one.pool else ''}",
            str(one.bits),
            f"{one.sent:,.0f}",
            f"{one.memory / 1e6:.1f}",
            _rate(one.pipelined),
            _rate(one.serial),
            one.limit,
            style="bold" if one == best else None,
        )
    console = PlainConsole()
    console.print(table)
    takes = (
        "weights, and the largest activations of a frame," if still else "weights, gradients, momentum and activations"
    )
    console.print(
        f"bytes: sent for an image. MB: {takes} on the robot. images/s: robot, link and cloud at the same time; in "
        "turn: one batch after the other.",
        highlight=False,
    )


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


def _rate(per_second: float) -> str:
    return f"{per_second:,.0f}" if per_second >= 10 else f"{per_second:.2g}"
