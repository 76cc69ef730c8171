"""What a person looks at after a preparation: a contact sheet of training images with their labels, the mean image."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data_prep.common.files import write_atomically
from data_prep.format import Manifest, as_image
from data_prep.reader import SplitReader

PREVIEW, MEAN_IMAGE = "preview.png", "mean.png"
_COLUMNS, _ROWS, _SIDE, _TEXT, _GAP = 8, 5, 144, 18, 6  # the last three in pixels


def write_previews(out: Path, manifest: Manifest, mean: np.ndarray) -> None:
    """`mean`: float [S, S, C], 0..255."""
    train = SplitReader(out, manifest, "train")
    first = [train[i] for i in range(min(_COLUMNS * _ROWS, len(train)))]
    sheet = contact_sheet([(pixels, manifest.classes[label].words) for pixels, label in first])
    write_atomically(out / PREVIEW, lambda file: sheet.save(file, "PNG"))
    write_atomically(out / MEAN_IMAGE, lambda file: as_image(mean).save(file, "PNG"))


def contact_sheet(images: Sequence[tuple[np.ndarray, str]]) -> Image.Image:
    """(uint8 [S, S, C], label) each, row by row, the label below its image, cut off where it is too long."""
    rows = -(-len(images) // _COLUMNS)
    cell_width, cell_height = _SIDE + _GAP, _SIDE + _TEXT + _GAP
    sheet = Image.new("RGB", (_COLUMNS * cell_width + _GAP, rows * cell_height + _GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for i, (pixels, label) in enumerate(images):
        left, top = _GAP + i % _COLUMNS * cell_width, _GAP + i // _COLUMNS * cell_height
        sheet.paste(as_image(pixels).resize((_SIDE, _SIDE)), (left, top))
        draw.text((left, top + _SIDE + 2), _fitted(label, draw, font), fill="black", font=font)
    return sheet


def _fitted(label: str, draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    text = " ".join(label.split())
    if draw.textlength(text, font) <= _SIDE:
        return text
    while text and draw.textlength(text + "…", font) > _SIDE:
        text = text[:-1]
    return text.rstrip(" ,") + "…"
