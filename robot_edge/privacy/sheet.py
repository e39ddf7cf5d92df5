"""A contact sheet: frames, and below each what every attacker sees of it. It shows frames, so it stays on the robot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from hierarchy.attack.pairs import Pictures
from robot_edge.privacy.attacks import Attack

# Pixels a side of a picture on the sheet, between two, and of the text in front of a row.
SIDE, GAP, TEXT = 96, 4, 220
PAPER, INK = (255, 255, 255), (20, 20, 20)


def draw_sheet(frames: Pictures, attacks: Sequence[Attack], path: Path) -> None:
    """Draw the frames uint8 (N, h, w, 3) that the attacks show, and a row for each attack. Raises OSError."""
    rows = [("the frames", "", frames)]
    for one in attacks:
        seen = (one.shown[: len(frames)] * 255).round().astype(np.uint8)
        rows.append((one.attacker, f"{one.knows}\nSSIM {one.leak.ssim:.2f}, found {one.leak.found:.1%}", seen))
    size = TEXT + len(frames) * (SIDE + GAP), len(rows) * (SIDE + GAP)
    sheet = Image.new("RGB", size, PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for number, (title, below, pictures) in enumerate(rows):
        top = number * (SIDE + GAP)
        pen.multiline_text((GAP, top + GAP), f"{title}\n{below}", fill=INK, font=font, spacing=4)
        for place, picture in enumerate(pictures):
            large = Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.NEAREST)
            sheet.paste(large, (TEXT + place * (SIDE + GAP), top))
    partial = path.with_name(f"new-{path.name}")  # half a picture is none
    sheet.save(partial, "png")
    partial.replace(path)
