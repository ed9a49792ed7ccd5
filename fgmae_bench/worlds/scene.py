"""What a Sentinel-1 scene is made of: textures in dB, and the sensor's speckle, impulse response and noise floor."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

SIZE = 64  # pixels on a side of an image, unless a world says otherwise
MARGIN = 4  # pixels painted around an image and cut off by the sensor, so that its impulse response has no border
CANVAS = SIZE + 2 * MARGIN  # side of the painted ground; functions take another one as `canvas`

NOISE_FLOOR_DB = (-22.0, -26.0)  # VV, VH; noise-equivalent sigma0 of IW GRD
# Weights of the averaged looks: IW GRDH averages 5 looks that overlap, worth 4.4 independent ones (Sentinel-1 Product
# Specification); tapered weights of independent looks give the same number, (sum w)^2 / sum w^2 = 4.4.
LOOK_WEIGHTS = np.array([0.42, 1.0, 1.0, 1.0, 0.42], np.float32) / 3.84
# Standard deviation in pixels of the Gaussian impulse response of the complex signal: its intensity then has an
# autocorrelation of exp(-d^2 / (2 sigma^2)) at d pixels, .6 at one pixel.
RESPONSE_SIGMA = 0.99

# Median sigma0 in dB, VV and VH, of the covers the classes are made of: mid latitudes, C band, 30-45 degrees of
# incidence.
COVERS = {
    "crop": (-12.0, -19.2),
    "herbs": (-11.6, -17.6),
    "grass": (-12.4, -19.2),
    "orchard": (-10.6, -16.1),
    "forest": (-9.4, -15.2),
    "houses": (-9.2, -16.0),
    "yard": (-9.5, -16.6),
    "roof": (-7.0, -14.0),
    "asphalt": (-16.5, -23.5),
    "water": (-25.5, -32.0),
    "paddy": (-14.5, -21.5),
    "conifers": (-10.4, -16.0),
    "scrub": (-11.0, -17.0),
    "heath": (-12.9, -18.3),
    "marsh": (-11.4, -19.4),
    "bog": (-13.2, -19.0),
    "mudflat": (-15.5, -24.5),
    "sand": (-18.0, -25.0),
    "rock": (-10.0, -17.8),
    "bare": (-14.0, -22.5),
}


def observe(rng: np.random.Generator, backscatter_db: Array) -> Array:
    """What the sensor records of a ground (2, H, W) of sigma0 in dB, VV and VH: float32, less MARGIN on every side.

    Scatterers are a circular complex Gaussian field, thermal noise adds to their power, the impulse response correlates
    neighbours, and the looks are averaged in intensity; VV and VH speckle are independent.
    """
    floor = np.power(10, np.array(NOISE_FLOOR_DB, np.float32) / 10)[:, None, None]
    power = np.power(10, backscatter_db / 10) + floor  # (2, H, W)
    amplitude = np.sqrt(power / 2).transpose(1, 2, 0)[..., None]  # (H, W, 2, 1), of the real and of the imaginary part
    looks = len(LOOK_WEIGHTS)
    height, width = backscatter_db.shape[1:]
    signal = rng.standard_normal((height, width, 2, 2 * looks), dtype=np.float32) * amplitude
    kernel = _response()
    focused = cv2.sepFilter2D(signal.reshape(height, width, -1), -1, kernel, kernel)[MARGIN:-MARGIN, MARGIN:-MARGIN]
    intensity = np.square(focused, out=focused).reshape(*focused.shape[:2], 2, 2 * looks) @ np.repeat(
        LOOK_WEIGHTS, 2
    )  # (h, w, 2)
    return np.ascontiguousarray(10 * np.log10(intensity.transpose(2, 0, 1)), dtype=np.float32)


def _response() -> Array:
    """One axis of the impulse response, of unit energy, so that a homogeneous ground keeps its power."""
    distance = np.arange(-3, 4)
    kernel = np.exp(-(distance**2) / (2 * RESPONSE_SIGMA**2))
    return (kernel / np.sqrt(np.square(kernel).sum())).astype(np.float32)


def smooth(rng: np.random.Generator, scale: float, canvas: int = CANVAS) -> Array:
    """Gaussian texture (H, W) of zero mean and unit variance, correlated over about `scale` pixels."""
    field = cv2.GaussianBlur(rng.standard_normal((canvas, canvas), dtype=np.float32), (0, 0), scale)
    return (field - field.mean()) / field.std()


def axes(angle: float, centre: tuple[float, float] | None = None, canvas: int = CANVAS) -> tuple[Array, Array]:
    """Pixel coordinates (H, W) along and across a direction of `angle` radians through `centre` (the middle)."""
    middle = centre or (canvas / 2, canvas / 2)
    y, x = np.mgrid[:canvas, :canvas].astype(np.float32)
    x, y = x - middle[0], y - middle[1]
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def fields(
    rng: np.random.Generator, count: int, angle: float, stretch: float, canvas: int = CANVAS
) -> NDArray[np.int64]:
    """Field numbers (H, W): `count` polygons, `stretch` times longer along `angle` than across."""
    along, across = axes(angle, canvas=canvas)
    half = canvas * 0.7
    seeds = rng.uniform(-half, half, (count, 2)).astype(np.float32)
    number, nearest = np.zeros(along.shape, np.int64), np.full(along.shape, np.inf, np.float32)
    for place, (seed_along, seed_across) in enumerate(seeds):
        distance = np.abs(along - seed_along) / np.float32(stretch) + np.abs(across - seed_across)
        number[distance < nearest] = place
        np.minimum(nearest, distance, out=nearest)
    return number


def meander(rng: np.random.Generator, bend: float, canvas: int = CANVAS) -> Array:
    """Signed distance (H, W) in pixels to a line through the image that swings by about `bend` pixels."""
    centre = rng.uniform(0.3, 0.7, 2) * canvas
    along, across = axes(rng.uniform(0, np.pi), (centre[0], centre[1]), canvas)
    period = rng.uniform(0.8, 1.6) * canvas
    return across - bend * np.sin(2 * np.pi * along / period + rng.uniform(0, 2 * np.pi)).astype(np.float32)


def rows(angle: float, period: float, canvas: int = CANVAS) -> Array:
    """Sinusoidal rows (H, W) between -1 and 1, `period` pixels apart."""
    return np.sin(2 * np.pi * axes(angle, canvas=canvas)[1] / period)


def points(
    rng: np.random.Generator, count: int, where: NDArray[np.bool_] | None = None, canvas: int = CANVAS
) -> NDArray[np.bool_]:
    """Mask (H, W) of `count` single pixels drawn anywhere or inside the mask `where`; fewer where they coincide."""
    allowed = np.arange(canvas * canvas) if where is None else np.flatnonzero(where)
    mask = np.zeros(canvas * canvas, bool)
    if len(allowed):
        mask[rng.choice(allowed, count)] = True
    return mask.reshape(canvas, canvas)


def level(rng: np.random.Generator, cover: str, spread: float = 0.7) -> Array:
    """Backscatter (2, 1, 1) in dB of a cover in one place: VV and VH vary together, their ratio by .3 dB on top."""
    vv, vh = COVERS[cover]
    shift = rng.normal(0, spread)
    return np.array([vv + shift, vh + shift + rng.normal(0, 0.3)], np.float32)[:, None, None]


def both(texture_db: Array, vh: float = 1.0) -> Array:
    """One texture (H, W) in both bands (2, H, W), `vh` times as strong in VH."""
    return np.stack([texture_db, vh * texture_db]).astype(np.float32)


def farmland(rng: np.random.Generator, contrast: float, canvas: int = CANVAS) -> Array:
    """Fields of one size and direction, each with a level of its own and some with tillage rows."""
    angle = rng.uniform(0, np.pi)
    number = fields(rng, int(rng.integers(4, 16)), angle, rng.uniform(1, 3), canvas)
    levels = rng.normal(0, contrast, (2, number.max() + 1)).astype(np.float32)
    levels[1] = 0.7 * levels[0] + 0.5 * levels[1]
    tilled = rng.random(number.max() + 1) < 0.3
    tillage = rng.uniform(0.3, 1.2) * rows(angle, rng.uniform(4, 8), canvas) * tilled[number]
    return level(rng, "crop") + levels[:, number] + both(tillage + 0.4 * smooth(rng, 3, canvas), 0.6)


def forest(rng: np.random.Generator, canvas: int = CANVAS) -> Array:
    """A closed canopy: fine texture, with stands of other ages."""
    canopy = rng.uniform(0.4, 0.9) * smooth(rng, rng.uniform(2, 3), canvas) + rng.uniform(0, 0.6) * smooth(
        rng, 12, canvas
    )
    return level(rng, "forest") + both(canopy)


def pasture(rng: np.random.Generator, canvas: int = CANVAS) -> Array:
    """Even grassland, here and there a hedge."""
    ground = level(rng, "grass") + both(rng.uniform(0.3, 0.9) * smooth(rng, rng.uniform(5, 10), canvas))
    for _ in range(rng.integers(0, 4)):
        ground = np.where(np.abs(meander(rng, 0, canvas)) < 1, level(rng, "forest"), ground)
    return ground


def water(rng: np.random.Generator, canvas: int = CANVAS) -> Array:
    """Water under wind: rougher is brighter in VV, with streaks."""
    wind = np.array([rng.gamma(1.5, 1.2), 0], np.float32)[:, None, None]
    return level(rng, "water", 1.2) + wind + both(rng.uniform(0.2, 1.2) * smooth(rng, rng.uniform(4, 12), canvas), 0.4)
