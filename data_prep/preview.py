"""What a person looks at after a preparation: a contact sheet with labels, and the mean image."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_COLUMNS, _SIDE, _TEXT, _GAP = 8, 144, 18, 6
PICTURES = 5 * _COLUMNS


def contact_sheet(pictures: Sequence[tuple[np.ndarray, str]]) -> Image.Image:
    """(uint8 [S, S, C], label) each, row by row, the label below its picture, cut off where it is too long."""
    rows = -(-len(pictures) // _COLUMNS)
    cell_width, cell_height = _SIDE + _GAP, _SIDE + _TEXT + _GAP
    sheet = Image.new("RGB", (_COLUMNS * cell_width + _GAP, rows * cell_height + _GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for i, (pixels, label) in enumerate(pictures):
        left, top = _GAP + i % _COLUMNS * cell_width, _GAP + i // _COLUMNS * cell_height
        sheet.paste(as_picture(pixels).resize((_SIDE, _SIDE)), (left, top))
        draw.text((left, top + _SIDE + 2), _fitted(label, draw, font), fill="black", font=font)
    return sheet


def as_picture(pixels: np.ndarray) -> Image.Image:
    """[S, S, C] of 0..255, whole numbers or not."""
    whole = pixels.round().astype(np.uint8)
    return Image.fromarray(whole.squeeze(-1) if whole.shape[-1] == 1 else whole)


def _fitted(label: str, draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    text = " ".join(label.split())
    if draw.textlength(text, font) <= _SIDE:
        return text
    while text and draw.textlength(text + "…", font) > _SIDE:
        text = text[:-1]
    return text.rstrip(" ,") + "…"
