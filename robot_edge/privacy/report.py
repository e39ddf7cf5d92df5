"""The figures of an audit, and whether they keep the line. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hierarchy.attack.attributes import AttributeLeak
from hierarchy.attack.membership import MembershipLeak
from robot_edge.privacy.attacks import NOTHING, Attack
from robot_edge.privacy.config import LEAST_ATTACKED


@dataclass(frozen=True, kw_only=True)
class Line:
    """The most that may leak: structural similarity, share of frames found, share of an attribute named right."""

    ssim: float
    found: float
    attribute: float


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What an audit found. matched: share of payloads whose frame is known again by whoever has front and frames.

    attribute, membership: None where they were not measured.
    """

    attacks: Sequence[Attack]
    matched: float
    attribute: AttributeLeak | None
    membership: MembershipLeak | None

    @property
    def ssim(self) -> Attack:
        """The attack with the highest structural similarity."""
        return max(self._by_payload, key=lambda one: one.leak.ssim)

    @property
    def psnr(self) -> Attack:
        """The attack with the highest ratio of signal to noise."""
        return max(self._by_payload, key=lambda one: one.leak.psnr)

    @property
    def found(self) -> Attack:
        """The attack that finds most frames."""
        return max(self._by_payload, key=lambda one: one.leak.found)

    @property
    def _by_payload(self) -> list[Attack]:
        """Return the attackers that count: of fewer frames than LEAST_ATTACKED one is too large a share."""
        return [one for one in self.attacks if one.knows != NOTHING and one.frames >= LEAST_ATTACKED]


def beyond(line: Line, findings: Findings) -> list[str]:
    """Return what is beyond the line, for people; nothing where the line holds."""
    ssim, found, attribute = findings.ssim, findings.found, findings.attribute
    said = []
    if ssim.leak.ssim > line.ssim:
        said.append(f"SSIM {ssim.leak.ssim:.2f} of {_who(ssim)}, where --most-ssim is {line.ssim:g}")
    if found.leak.found > line.found:
        said.append(f"{found.leak.found:.1%} of frames found by {_who(found)}, where --most-found is {line.found:g}")
    if attribute and attribute.found > line.attribute:
        said.append(f"--attribute named right for {attribute.found:.1%}, where --most-attribute is {line.attribute:g}")
    return said


def report(line: Line, findings: Findings) -> dict[str, Any]:
    """Return the figures, as JSON can hold them. ssim, psnr and found are the strongest attacker's in each."""
    return {
        "holds": not beyond(line, findings),
        "ssim": findings.ssim.leak.ssim,
        "psnr": findings.psnr.leak.psnr,
        "found": findings.found.leak.found,
        "strongest": {name: _who(getattr(findings, name)) for name in ("ssim", "psnr", "found")},
        "line": asdict(line),
        "attacks": [
            {
                "attacker": one.attacker,
                "knows": one.knows,
                "frames": one.frames,
                **asdict(one.leak),
                "lpips": one.lpips,
                "seconds": round(one.seconds, 1),
            }
            for one in findings.attacks
        ],
        "matched": findings.matched,
        "attribute": findings.attribute and asdict(findings.attribute),
        "membership": findings.membership and asdict(findings.membership),
    }


def _who(attack: Attack) -> str:
    return f"{attack.attacker} ({attack.knows})"
