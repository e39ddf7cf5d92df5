"""What a person sees of an audit on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from robot_edge.privacy.attacks import NOTHING, Attack
from robot_edge.privacy.config import LEAST_ATTACKED
from robot_edge.privacy.report import Findings, Line, beyond


def print_audit(console: Console, line: Line, findings: Findings, *, gallery: int) -> None:
    """Print a row for each attacker, the other figures, and whether the line holds.

    gallery: frames to find one among.
    """
    console.print(_table(findings.attacks, gallery))
    texts = [
        f"Frame known again, by whoever has it and encodes it as the robot does: {findings.matched:.1%}. That shows no "
        "picture, and the line does not count it."
    ]
    if attribute := findings.attribute:
        texts.append(
            f"Attribute ({attribute.values} values): named right for {attribute.found:.1%} from what crosses; "
            f"{attribute.known_anyway:.1%} without it."
        )
    if member := findings.membership:
        texts.append(
            f"Membership: whoever has the exit tells frames that were learned from others with an AUROC of "
            f"{member.auroc:.2f} (0.50: not at all), and is sure of {member.sure:.1%} (1.0% would be chance)."
        )
    said = beyond(line, findings)
    texts.append(f"THE LINE DOES NOT HOLD: {'; '.join(said)}." if said else "The line holds.")
    for text in texts:
        console.print(text, highlight=False)


def _table(attacks: Sequence[Attack], gallery: int) -> Table:
    table = Table(title="What attackers see of frames", title_justify="left")
    has_lpips = any(one.lpips is not None for one in attacks)
    for column in ("attacker", "knows", "frames", "PSNR", "SSIM", *(("LPIPS",) if has_lpips else ()), "found"):
        table.add_column(column, justify="left" if column in {"attacker", "knows"} else "right")
    for one in attacks:
        lpips = ("-" if one.lpips is None else f"{one.lpips:.2f}",) if has_lpips else ()
        figures = f"{one.leak.psnr:.1f} dB", f"{one.leak.ssim:.2f}", *lpips, f"{one.leak.found:.1%}"
        table.add_row(one.attacker, one.knows, f"{one.frames:,}", *figures)
        if one.knows == NOTHING:
            table.add_section()
    table.caption = (
        f"SSIM: 1 is a copy; at about 0.5 a person knows what is shown. found: right one of {gallery:,} frames. "
        f"Attackers of fewer than {LEAST_ATTACKED} frames are shown, and the line does not count them."
    )
    table.caption_justify = "left"
    return table
