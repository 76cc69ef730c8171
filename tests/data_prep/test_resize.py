"""Section 2 against Pillow, step by step, and the odd files that ImageNet has."""

import gzip

import numpy as np
import pytest
from layouts import encoded
from PIL import Image

from data_prep.format import encode
from data_prep.resize import central_square, pillow_warnings, prepare_image, square_image


def photograph(width: int, height: int, mode: str = "RGB") -> Image.Image:
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 255 // width, y * 255 // height, (x * 7 + y * 3) % 256], axis=-1).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize(
    ("size", "resized", "corner"),
    [
        ((500, 375), (341, 256), (42, 0)),  # 500 * 256 / 375 = 341.33
        ((375, 500), (256, 341), (0, 42)),
        ((256, 256), (256, 256), (0, 0)),
        ((100, 60), (427, 256), (85, 0)),  # enlarged: 426.67
        ((64, 64), (256, 256), (0, 0)),
        ((128, 160), (256, 320), (0, 32)),  # twice as large
        ((300, 257), (299, 256), (21, 0)),  # 298.83, an odd margin of 43: floor
        ((900, 256), (900, 256), (322, 0)),
        ((2000, 1500), (341, 256), (42, 0)),
        ((64, 1000), (256, 4000), (0, 1872)),
    ],
)
def test_shorter_side_then_centre(size: tuple[int, int], resized: tuple[int, int], corner: tuple[int, int]) -> None:
    image = photograph(*size)
    method = Image.Resampling.BILINEAR if min(size) > 256 else Image.Resampling.BICUBIC
    whole = np.asarray(image if size == resized else image.resize(resized, method))
    left, top = corner
    expected = whole[top : top + 256, left : left + 256]
    np.testing.assert_array_equal(prepare_image(encoded(image, "PNG"), 256), expected)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_any_shape_is_what_pillow_makes_of_the_whole(mode: str) -> None:
    """Noise, in which every weight shows, and sizes at which the scale of both directions differs by rounding."""
    rng = np.random.default_rng(0)
    for width, height in [(500, 333), (333, 500), (257, 300), (75, 60), (41, 47), (130, 64), (64, 130), (33, 90)]:
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).convert(mode)
        scale = 64 / min(image.size)
        method = Image.Resampling.BILINEAR if scale < 1 else Image.Resampling.BICUBIC
        resized = (round(width * scale), round(height * scale))
        whole = np.asarray(image if scale == 1 else image.resize(resized, method))
        left, top = (resized[0] - 64) // 2, (resized[1] - 64) // 2
        np.testing.assert_array_equal(np.asarray(central_square(image, 64)), whole[top : top + 64, left : left + 64])


@pytest.mark.parametrize("size", [(80, 60), (80, 64), (64, 64), (60, 80)])
def test_nothing_but_pixels_is_handed_on(size: tuple[int, int]) -> None:
    """Pillow would write comment, profile and resolution of the file read into the one written."""
    options = {"comment": b"a comment", "icc_profile": b"a profile", "dpi": (300, 300), "exif": b"Exif\0\0II*\0"}
    with pillow_warnings():
        square = square_image(encoded(photograph(*size), "JPEG", **options), 64)
    assert encode(square, "jpeg", 95) == encoded(Image.fromarray(np.asarray(square)), "JPEG", quality=95)


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB", "1", "P", "RGBA", "LA", "I;16"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = photograph(80, 60).convert("L").point(lambda v: v * 257, "I").convert("I;16") if mode == "I;16" else None
    image = image or (photograph(80, 60, "RGBA").convert(mode) if mode == "LA" else photograph(80, 60, mode))
    data = encoded(image, "JPEG" if mode == "CMYK" else "PNG")
    result = prepare_image(data, 64)
    assert result.shape == (64, 64, 3)
    assert result.dtype == np.uint8
    if mode in ("L", "LA", "1", "I;16"):
        assert (result[..., 0] == result[..., 2]).all()
        assert result.std() > 20  # an image, not a clipped plane


@pytest.mark.parametrize("mode", ["CMYK", "P", "RGBA", "transparent palette"])
def test_colours_become_rgb_before_anything_is_resized(mode: str) -> None:
    """Of a palette's indices, or of four inks, no mean has a meaning. Transparency is left aside."""
    image = photograph(90, 70, "P" if mode == "transparent palette" else mode)
    options = {"transparency": 3} if mode == "transparent palette" else {}
    data = encoded(image, "TIFF" if mode == "CMYK" else "PNG", **options)
    expected = central_square(image.convert("RGB"), 64)
    np.testing.assert_array_equal(prepare_image(data, 64), np.asarray(expected))
    with pillow_warnings():
        assert square_image(data, 64).mode == "RGB"


def test_what_is_no_photograph_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"^no image format that is known here$"):
        prepare_image(b"no image", 64)
    narrow = pytest.raises(ValueError, match=r"^1x40 pixels: too narrow to be a photograph$")
    with narrow, monkeypatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 2559)
        prepare_image(encoded(photograph(1, 40), "PNG"), 64)  # 64 x 2560
    with monkeypatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # as notebooks set it, for large images
        assert prepare_image(encoded(photograph(1, 40), "PNG"), 64).shape == (64, 64, 3)
    monkeypatch.setattr("data_prep.resize.MOST_BYTES", 2 << 20)
    large = encoded(photograph(1000, 900), "BMP")  # 2.7 MB
    for data in (large, gzip.compress(large)):
        with pytest.raises(ValueError, match=r"^more than 2 MB: no photograph$"):
            prepare_image(data, 64)
    monkeypatch.setattr("data_prep.resize.MOST_BYTES", len(large))
    assert prepare_image(large, 64).shape == prepare_image(gzip.compress(large), 64).shape == (64, 64, 3)


def test_sixteen_bits_keep_the_upper_eight() -> None:
    """In files of 16 bits, and of 32 that hold no more. Nothing is resized."""
    values = np.array([[1, 0, 255, 256], [511, 512, 32768, 65535], [65280, 7000, 300, 1000], [0, 0, 0, 0]], np.int32)
    for whole, kind in ((values, "TIFF"), (values.astype(np.uint16), "TIFF"), (values.astype(np.uint16), "PNG")):
        for channels in (3, 1):
            result = prepare_image(encoded(Image.fromarray(whole), kind), 4, channels)
            np.testing.assert_array_equal(result, np.repeat(values[:, :, None] // 256, channels, axis=2))


@pytest.mark.parametrize("top", [1.0, 255.0, 65535.0, 255, 2**31 - 1])
def test_floats_and_long_numbers_by_their_range(top: float) -> None:
    """Within one level of what the range means: 65535 is 255, and so is 1.0; never black, as these once were."""
    ramp = np.linspace(0, top, 16).reshape(4, 4).astype(np.float32 if isinstance(top, float) else np.int32)
    result = prepare_image(encoded(Image.fromarray(ramp), "TIFF"), 4, 1)[..., 0]
    assert np.abs(result - np.linspace(0, 255, 16).reshape(4, 4)).max() <= 1


@pytest.mark.parametrize("value", [-5, 70_000, 4095, 1 << 28, -1.0, 1e9, 3000.0, 1.5, np.nan, np.inf])
def test_values_that_are_no_grey_levels_are_rejected(value: float) -> None:
    values = np.full((4, 4), value, np.int32 if isinstance(value, int) else np.float32)
    with pytest.raises(ValueError, match=r"^its values are \S+ to \S+, which are no grey levels$"):
        prepare_image(encoded(Image.fromarray(values), "TIFF"), 4)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_grey_is_luma_of_the_resized_image(mode: str) -> None:
    """What is grey stays as it is; colours become luma after resizing."""
    image = photograph(80, 60, mode)
    result = prepare_image(encoded(image, "PNG"), 60, channels=1)
    assert result.shape == (60, 60, 1)
    rgb = image.convert("RGB") if mode == "RGBA" else image
    expected = np.asarray(rgb.crop((10, 0, 70, 60)).convert("L"))
    np.testing.assert_array_equal(result[..., 0], expected)


def test_gzipped_jpeg_as_in_ilsvrc2010() -> None:
    data = encoded(photograph(90, 70), "JPEG")
    np.testing.assert_array_equal(prepare_image(gzip.compress(data), 64), prepare_image(data, 64))


def test_corrupt_exif_is_harmless_and_orientation_is_left_aside() -> None:
    image = photograph(90, 70)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees, says the camera
    turned = encoded(image, "PNG", exif=exif)
    np.testing.assert_array_equal(prepare_image(turned, 64), prepare_image(encoded(image, "PNG"), 64))
    broken = encoded(image, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    np.testing.assert_array_equal(prepare_image(broken, 64), prepare_image(encoded(image, "JPEG"), 64))


@pytest.mark.parametrize("damage", ["truncated", "text", "empty", "header only", "short gzip", "bad gzip"])
def test_broken_images_are_refused(damage: str) -> None:
    data = encoded(photograph(90, 70), "JPEG")
    broken = {"truncated": data[: len(data) // 2], "text": b"no image", "empty": b"", "header only": data[:30]}
    packed = gzip.compress(data)
    broken |= {"short gzip": packed[:-20], "bad gzip": packed[:40] + b"\xff" * 9 + packed[49:]}
    with pytest.raises((OSError, ValueError)):
        prepare_image(broken[damage], 64)


def test_decompression_bomb_is_refused() -> None:
    with pytest.raises(ValueError, match="too large"):
        prepare_image(encoded(Image.new("1", (20_000, 20_000)), "PNG"), 64)
