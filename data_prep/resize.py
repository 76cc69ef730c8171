"""Section 2: the shorter side rescaled to 256, then the central 256x256. Any image file in, uint8 RGB or grey out."""

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# The paper names no filter. Our choice: Pillow's triangle filter when shrinking, which weighs every source pixel under
# the target pixel, and cubic when enlarging (the authors' tool of 2014 took area and cubic).
SHRINK = Image.Resampling.BILINEAR
ENLARGE = Image.Resampling.BICUBIC

_GZIP_MAGIC = b"\x1f\x8b"
MOST_BYTES = 64 << 20  # of one image file; anything larger is no photograph


def central_square(image: Image.Image, size: int) -> Image.Image:
    """Shorter side to `size`, the other side rounded, then the centre `size` x `size`. `image`: RGB or grey.

    Of a wide image Pillow resizes along the rows, rounds to 8 bits, then along the columns. Here these are two calls,
    so that of the rows only the centre goes into the second: the same pixels, in less time. A tall one stays one call:
    for some of them Pillow takes the columns first.
    """
    width, height = image.size
    scale = size / min(width, height)
    wide, high = max(size, round(width * scale)), max(size, round(height * scale))
    left, top = (wide - size) // 2, (high - size) // 2
    if scale != 1:
        if Image.MAX_IMAGE_PIXELS and wide * high > Image.MAX_IMAGE_PIXELS:
            raise ValueError(f"{width}x{height} pixels: too narrow to be a photograph")
        kernel = SHRINK if scale < 1 else ENLARGE
        if wide > size:
            image = image.resize((wide, height), kernel).crop((left, 0, left + size, height))
            left = 0
        image = image.resize((size, high), kernel)
    return image if scale != 1 and high == size else image.crop((left, top, left + size, top + size))


def as_rgb(image: Image.Image) -> Image.Image:
    """Greyscale of 1, 8, 16 or 32 bits or of floats, palette, CMYK, alpha -> RGB.

    Orientation tags and colour profiles are left aside.
    """
    if image.mode == "F" or image.mode.startswith("I"):  # which Pillow would clip at 255
        image = _as_bytes(image)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")


def _as_bytes(image: Image.Image) -> Image.Image:
    """Greyscale of more than 8 bits, by the range of its values: 0..255, 0..65535, 0..1 in floats, 0..2^31 in whole
    numbers, of which only TIFF files hold more than 16 bits.

    ValueError for values that fill none of these, such as heights: nothing says which of them are black and white.
    """
    values = np.asarray(image)
    if image.mode != "F" and not (image.mode == "I" and image.format == "TIFF"):
        return Image.fromarray((values.clip(0, 65535) >> 8).astype(np.uint8))
    least, most = float(values.min()), float(values.max())
    tops = (1, 255, 65535) if image.mode == "F" else (255, 65535, 2**31 - 1)
    top = next((top for top in tops if most <= top), 0)
    # The brightest pixel of a photograph is in the upper half of its range. Where it is not, the numbers are a sensor's
    # 12 bits, metres or kelvins, and would become nearly black. Floats up to 1 are taken: no other range has those.
    if least < 0 or not (top == 1 or top / 2 < most <= top):
        raise ValueError(f"its values are {least:g} to {most:g}, which are no grey levels")
    if image.mode == "F":
        return Image.fromarray(np.rint(values * np.float64(255 / top)).astype(np.uint8))
    return Image.fromarray((values * np.float64(256 / (top + 1))).astype(np.uint8))


def as_grey(image: Image.Image) -> Image.Image:
    """As `as_rgb`, to 8-bit greyscale."""
    return image if image.mode == "L" else as_rgb(image).convert("L")


def prepared_square(image: Image.Image, size: int, channels: int = 3) -> Image.Image:
    """An image of any mode -> `size` x `size` pixels, RGB or (1) grey."""
    wanted = as_rgb if channels == 3 else as_grey
    # Grey becomes RGB last: the same values, resized once instead of three times.
    return wanted(central_square(image if image.mode == "L" else wanted(image), size))


@contextmanager
def pillow_warnings() -> Iterator[None]:
    """Silences Pillow's warnings, except that of an image too large, which becomes an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # corrupt EXIF and the like, harmless and frequent in ImageNet
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def prepare_image(data: bytes, size: int, channels: int = 3, upright: bool = False) -> np.ndarray:
    """As `square_image`, uint8 [size, size, channels]."""
    with pillow_warnings():
        return np.asarray(square_image(data, size, channels, upright)).reshape(size, size, channels)


def square_image(data: bytes, size: int, channels: int = 3, upright: bool = False) -> Image.Image:
    """The bytes of an image file, whatever its name says it is -> `size` x `size` pixels, RGB or (1) grey, without
    the comments, profiles and tags of the file. To be called within `pillow_warnings`.

    `upright`: first turned as the file's EXIF orientation says, which photographs of phones need. Preparation does not,
    as ImageNet was never turned.

    Raises OSError or ValueError for a file that cannot be read as an image, with the reason.
    """
    try:
        if data[:2] == _GZIP_MAGIC:  # some members of the ILSVRC-2010 archives
            data = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16).decompress(data, MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise ValueError(f"more than {MOST_BYTES >> 20} MB: no photograph")
        with Image.open(io.BytesIO(data)) as image:
            image.decodermaxblock = len(data)  # all at once: it is in memory
            if upright:
                image.load()
                with suppress(Exception):  # corrupt EXIF: Pillow raises what it likes, and the pixels may be well
                    ImageOps.exif_transpose(image, in_place=True)
            square = prepared_square(image, size, channels)
            square.info = {}  # or Pillow would write the comment into the next file
            return square
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"too large to be a photograph: {error}") from None
    except UnidentifiedImageError:
        raise ValueError("no image format that is known here") from None
    # Pillow's answers to broken files.
    except (SyntaxError, EOFError, KeyError, IndexError, TypeError, struct.error, zlib.error) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None
