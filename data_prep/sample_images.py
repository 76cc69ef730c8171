"""Ten classes drawn by program. Apple and orange differ in colour, banana and lemon in shape, tiger and leopard in
texture; place, size, angle, light, colours, background and clutter vary in all of them.

Every figure is drawn in coordinates u and v, float [H, W] each, with v pointing down and the figure inside the unit
circle: as a mask (float [H, W], 0..1) and a colour (float [H, W, 3], or [3] where it is the same everywhere; 0..1).
"""

import colorsys
from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image

Figure = tuple[np.ndarray, np.ndarray]  # mask, colour
Rng = np.random.Generator
Draw = Callable[[Rng, np.ndarray, np.ndarray], Figure]  # of u, v

_REACH = 1.4  # no figure goes further than this from its centre, in units of its radius


def draw(wnid: str, rng: Rng, width: int, height: int) -> Image.Image:
    """One RGB image of the class, with the figure near the middle of the central square."""
    canvas = _background(rng, width, height)
    for _ in range(rng.integers(0, 4)):
        _paint(canvas, _clutter, rng, rng.uniform(0.05, 0.14), spread=0.5)
    _paint(canvas, CLASSES[wnid], rng, rng.uniform(0.27, 0.46), spread=0.12)
    gain = rng.uniform(0.75, 1.15) * (1 + rng.normal(0, 0.03, 3))
    canvas = canvas * gain + rng.normal(0, 0.02, canvas.shape)
    return Image.fromarray((canvas.clip(0, 1) * 255).astype(np.uint8))


def _paint(canvas: np.ndarray, figure: Draw, rng: Rng, scale: float, spread: float) -> None:
    """Draws a figure of radius `scale` (of the shorter side) into `canvas`, turned, and off the centre by `spread`."""
    height, width = canvas.shape[:2]
    side = min(height, width)
    x0, y0 = width / 2 + side * rng.uniform(-spread, spread), height / 2 + side * rng.uniform(-spread, spread)
    angle = rng.uniform(-0.5, 0.5)
    radius = scale * side
    left, top = max(0, int(x0 - _REACH * radius)), max(0, int(y0 - _REACH * radius))
    part = canvas[top : int(y0 + _REACH * radius) + 1, left : int(x0 + _REACH * radius) + 1]
    x, y = left + np.arange(part.shape[1]) - x0, (top + np.arange(part.shape[0]) - y0)[:, None]
    u = (x * np.cos(angle) + y * np.sin(angle)) / radius
    v = (-x * np.sin(angle) + y * np.cos(angle)) / radius
    if rng.random() < 0.5:
        u = -u
    mask, colour = figure(rng, u, v)
    part += mask[..., None] * (colour - part)


def _background(rng: Rng, width: int, height: int) -> np.ndarray:
    """Two muted colours blended by large soft blotches, with finer grain over it."""
    first, second = (_hsv(rng.random(), rng.uniform(0, 0.45), rng.uniform(0.2, 0.9)) for _ in range(2))
    blend = _soft_noise(rng, height, width, int(rng.integers(2, 5)))[..., None]
    grain = _soft_noise(rng, height, width, int(rng.integers(20, 60)))[..., None] - 0.5
    return first + (second - first) * blend + rng.uniform(0.05, 0.3) * grain


def _soft_noise(rng: Rng, height: int, width: int, cells: int) -> np.ndarray:
    """float [H, W], 0..1: random values on a grid of `cells` along each side, smoothly interpolated."""
    coarse = Image.fromarray(rng.random((cells + 1, cells + 1), dtype=np.float32))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).clip(0, 1)


def _hsv(hue: float, saturation: float, value: float) -> np.ndarray:
    return np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value))


def _inside(distance: np.ndarray) -> np.ndarray:
    """1 where `distance` is well below 0, 0 where well above, with a soft edge."""
    return (0.5 - distance * 30).clip(0, 1)


def _shaded(colour: np.ndarray, u: np.ndarray, v: np.ndarray, rng: Rng) -> np.ndarray:
    """float [H, W, 3]: lit like a ball, from above and one side. `colour`: [3] or [H, W, 3]."""
    light = 0.85 - 0.3 * v + rng.uniform(-0.3, 0.3) * u - 0.25 * (u * u + v * v)
    return colour * light.clip(0.25, 1.15)[..., None]


def _round_fruit(hue: tuple[float, float], rng: Rng, u: np.ndarray, v: np.ndarray) -> Figure:
    """With a dimple and a short stalk: apple and orange share all of it but the hue."""
    dimple = 0.16 * np.exp(-((u / 0.3) ** 2)) * (v < 0)
    mask = _inside(np.hypot(u * rng.uniform(1, 1.08), v) + dimple - 0.95)
    colour = _shaded(_hsv(rng.uniform(*hue), rng.uniform(0.75, 0.95), rng.uniform(0.75, 0.95)), u, v, rng)
    stalk = _inside(np.maximum(np.abs(u - 0.05) - 0.05, np.abs(v + 0.85) - 0.14))
    colour += stalk[..., None] * (np.array([0.3, 0.2, 0.1]) - colour)
    return np.maximum(mask, stalk), colour


def _yellow(rng: Rng) -> np.ndarray:
    return _hsv(rng.uniform(0.135, 0.165), rng.uniform(0.7, 0.95), rng.uniform(0.85, 0.98))


def _banana(rng: Rng, u: np.ndarray, v: np.ndarray) -> Figure:
    outer = np.hypot(u, v + 0.35) - 1.0
    inner = rng.uniform(0.95, 1.05) - np.hypot(u, v + rng.uniform(0.72, 0.82))
    mask = _inside(np.maximum(outer, inner))
    tips = (np.abs(u) > 0.8)[..., None]
    return mask, _shaded(np.where(tips, np.array([0.35, 0.28, 0.1]), _yellow(rng)), u, v, rng)


def _lemon(rng: Rng, u: np.ndarray, v: np.ndarray) -> Figure:
    body = np.hypot(u / 0.82, v / rng.uniform(0.55, 0.66)) - 1
    tips = np.maximum(np.abs(u) - 0.98, np.abs(v) - 0.14)
    return _inside(np.minimum(body * 0.6, tips)), _shaded(_yellow(rng), u, v, rng)


def _animal(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The body that tiger, leopard and zebra share: trunk, head, four legs, tail."""
    trunk = (np.hypot(u / 0.72, v / 0.36) - 1) * 0.36
    head = np.hypot(u - 0.72, v + 0.3) - 0.26
    legs = np.minimum.reduce(
        [np.maximum(np.abs(u - x) - 0.085, np.abs(v - 0.45) - 0.45) for x in (-0.55, -0.3, 0.3, 0.52)]
    )
    tail = np.maximum(np.abs(v + 0.15 - 0.4 * (u + 0.7)) - 0.05, np.abs(u + 0.8) - 0.2)
    return _inside(np.minimum.reduce([trunk, head, legs, tail]))


def _stripes(rng: Rng, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    wave = np.sin((u + 0.12 * np.sin(4 * v + rng.uniform(0, 6))) * rng.uniform(17, 24) + rng.uniform(0, 6))
    return (wave * 3 + 0.2).clip(0, 1)


def _spots(rng: Rng, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    spacing = rng.uniform(0.15, 0.2)
    row = np.round(v / spacing)
    du = u / spacing + 0.5 * (row % 2) + 0.15 * np.sin(row * 5)
    distance = np.hypot(du - np.round(du), v / spacing - row)
    return ((0.33 - distance) * 12).clip(0, 1)


def _fur(rng: Rng) -> np.ndarray:
    return _hsv(rng.uniform(0.07, 0.11), rng.uniform(0.55, 0.8), rng.uniform(0.8, 0.98))


def _white(rng: Rng) -> np.ndarray:
    return _hsv(rng.random(), rng.uniform(0, 0.05), rng.uniform(0.88, 1))


def _coated(
    ground: Callable[[Rng], np.ndarray],
    marks: Callable[[Rng, np.ndarray, np.ndarray], np.ndarray],
    rng: Rng,
    u: np.ndarray,
    v: np.ndarray,
) -> Figure:
    """An animal: tiger, leopard and zebra differ in the colour of the ground and in the dark marks on it."""
    colour = ground(rng) * (1 - 0.9 * marks(rng, u, v)[..., None])
    return _animal(u, v), _shaded(colour, u * 0.7, v * 0.7, rng)


def _honeycomb(rng: Rng, u: np.ndarray, v: np.ndarray) -> Figure:
    """Hexagonal cells: the distance to the nearest of two interleaved rectangular lattices' points."""
    pitch = rng.uniform(0.16, 0.24)
    a, b = u / pitch, v / pitch / np.sqrt(3)
    first = np.hypot(a - np.round(a), (b - np.round(b)) * np.sqrt(3))
    second = np.hypot(a - np.floor(a) - 0.5, (b - np.floor(b) - 0.5) * np.sqrt(3))
    wall = ((np.minimum(first, second) - 0.36) * 10).clip(0, 1)[..., None]
    wax = _hsv(rng.uniform(0.09, 0.13), rng.uniform(0.6, 0.9), rng.uniform(0.8, 0.95))
    outline = np.hypot(u, v) - 0.85 - 0.1 * np.sin(3 * np.arctan2(v, u) + rng.uniform(0, 6))
    return _inside(outline), _shaded(wax * (0.45 + 0.55 * wall), u, v, rng)


def _daisy(rng: Rng, u: np.ndarray, v: np.ndarray) -> Figure:
    radius, angle = np.hypot(u, v), np.arctan2(v, u)
    petals = rng.integers(9, 17) / 2
    outline = radius - 0.45 - 0.5 * np.sqrt(np.abs(np.cos(petals * angle + rng.uniform(0, 6))))
    white = _hsv(rng.random(), rng.uniform(0, 0.06), rng.uniform(0.88, 1)) * (0.7 + 0.3 * radius)[..., None]
    heart = _inside(radius - rng.uniform(0.24, 0.34))[..., None]
    colour = white + heart * (_hsv(rng.uniform(0.11, 0.15), 0.85, 0.9) - white)
    return _inside(outline), colour.clip(0, 1)


def _traffic_light(rng: Rng, u: np.ndarray, v: np.ndarray) -> Figure:
    box = _inside(np.maximum(np.abs(u) - 0.38, np.abs(v) - 0.97))
    colour = _hsv(rng.random(), rng.uniform(0, 0.4), rng.uniform(0.12, 0.35))
    lit = rng.integers(0, 3)
    for lamp, hue in enumerate((0.0, 0.12, 0.38)):
        disc = _inside(np.hypot(u, v - 0.62 * (lamp - 1)) - 0.25)[..., None]
        colour = colour + disc * (_hsv(hue, 0.9, 1.0 if lamp == lit else 0.35) - colour)
    return box, colour


def _clutter(rng: Rng, u: np.ndarray, v: np.ndarray) -> Figure:
    """A plain ellipse or box of any colour, that belongs to no class."""
    aspect = rng.uniform(0.5, 1)
    shape = np.hypot(u, v / aspect) - 1 if rng.random() < 0.5 else np.maximum(np.abs(u), np.abs(v / aspect)) - 0.8
    return _inside(shape), _hsv(rng.random(), rng.uniform(0.2, 0.9), rng.uniform(0.3, 0.9))


CLASSES: dict[str, Draw] = {
    "n07742313": partial(_round_fruit, (0.22, 0.30)),  # Granny Smith
    "n07747607": partial(_round_fruit, (0.055, 0.09)),  # orange
    "n07753592": _banana,
    "n07749582": _lemon,
    "n02129604": partial(_coated, _fur, _stripes),  # tiger
    "n02128385": partial(_coated, _fur, _spots),  # leopard
    "n02391049": partial(_coated, _white, _stripes),  # zebra
    "n03530642": _honeycomb,
    "n11939491": _daisy,
    "n06874185": _traffic_light,
}
