"""What is in a scene: a few coloured solids on a lit ground, chosen from a seed.

The images are in the manner of CLEVR (Johnson et al. 2017): spheres, cubes and cylinders of two sizes, two materials
and eight colours. This module decides where everything stands; :mod:`ganformer_cli.data.scenes.rendering` draws it.

Every number here comes from a stable bit stream, ordinary double arithmetic and square roots, which IEEE 754 fixes to
the last bit; there is no sine, power or exponential, whose last bit differs among machines. So (seed, index, shape of
the frame) gives the same scene everywhere.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

Vector = tuple[float, float, float]

SHAPES = ("sphere", "cube", "cylinder")
MATERIALS = ("matte", "metal")
SIZES = {"large": 0.86, "small": 0.56}  # radius in world units
# Linear-light colours; CLEVR's eight names.
COLORS: dict[str, Vector] = {
    "gray": (0.16, 0.16, 0.17),
    "red": (0.55, 0.035, 0.035),
    "blue": (0.035, 0.11, 0.68),
    "green": (0.03, 0.28, 0.05),
    "brown": (0.30, 0.12, 0.03),
    "purple": (0.30, 0.04, 0.52),
    "cyan": (0.05, 0.55, 0.60),
    "yellow": (0.85, 0.62, 0.04),
}
MIN_OBJECTS, MAX_OBJECTS = 2, 5

# A cube of half side r and a cylinder of radius r look larger than a sphere of radius r: even them out.
_HALF = {"sphere": 1.0, "cube": 0.80, "cylinder": 0.84}
_FOCAL = 3.0  # focal length, in frame units (see frame_extent)
# Radius of a ball about its middle that looks as large.
_ROUND = {"sphere": 1.0, "cube": 1.42, "cylinder": 1.24}
_GAP = 0.14  # least distance between two footprints, world units
_MARGIN = 0.02  # least distance from the rim of the image, frame units
_TRIES = 80  # places tried for an object before the scene goes without it


@dataclass(frozen=True)
class SceneObject:
    """One solid standing on the ground ``z = 0``. Lengths are in world units."""

    shape: str  # one of SHAPES
    size: str  # a key of SIZES
    material: str  # one of MATERIALS
    color: str  # a key of COLORS
    x: float  # where its axis meets the ground
    y: float
    half: float  # half its height; also the sphere's and cylinder's radius and the cube's half side
    turn: tuple[float, float]  # (cosine, sine) of its turn about the vertical

    @property
    def footprint(self) -> float:
        """Radius of the circle on the ground that encloses it."""
        return self.half * math.sqrt(2.0) if self.shape == "cube" else self.half


@dataclass(frozen=True)
class Camera:
    """A pinhole camera; ``right``, ``up`` and ``forward`` are orthonormal."""

    position: Vector
    right: Vector
    up: Vector
    forward: Vector
    focal: float

    def project(self, x: float, y: float, z: float) -> tuple[float, float, float]:
        """World point to (u rightward, v upward, depth): u and v in frame units, depth in world units."""
        dx, dy, dz = x - self.position[0], y - self.position[1], z - self.position[2]
        depth = max(_dot(self.forward, (dx, dy, dz)), 1e-3)
        scale = self.focal / depth
        return _dot(self.right, (dx, dy, dz)) * scale, _dot(self.up, (dx, dy, dz)) * scale, depth


@dataclass(frozen=True)
class Scene:
    """Everything that an image shows."""

    objects: tuple[SceneObject, ...]  # object k of the mask is objects[k - 1]
    camera: Camera
    light: Vector  # unit vector towards the key light
    brightness: float  # of the key light, about 1
    glow: tuple[float, float]  # where on the ground the light is brightest
    ground: Vector  # linear-light colour of the ground

    def attributes(self) -> list[dict[str, Any]]:
        """The objects as plain dictionaries, in the order of the mask."""
        return [asdict(item) for item in self.objects]


def frame_extent(height: int, width: int) -> tuple[float, float]:
    """Half height and half width of the frame, in units that give objects a like share of it for any ratio."""
    unit = min(math.sqrt(height * width), 1.6 * min(height, width))
    return 0.5 * height / unit, 0.5 * width / unit


def compose(seed: int, index: int, height: int, width: int) -> Scene:
    """The scene number ``index`` of the series ``seed``, arranged for a frame of ``height`` by ``width``.

    Only the frame's proportions matter: the same index at 32 and at 256 px is the same scene.
    """
    draw = _Draws(seed, index)
    camera = _place_camera(draw)
    light = _unit((draw.between(-0.85, -0.35), draw.between(-0.75, -0.25), draw.between(0.95, 1.15)))
    brightness = draw.between(0.92, 1.08)
    glow = (draw.between(-1.2, 0.6), draw.between(-1.2, 0.6))
    shade = draw.between(0.36, 0.44)
    ground = (shade * 1.01, shade, shade * draw.between(0.94, 1.0))
    extent = frame_extent(height, width)
    count = MIN_OBJECTS + draw.below(MAX_OBJECTS - MIN_OBJECTS + 1)
    objects: list[SceneObject] = []
    while len(objects) < MIN_OBJECTS:  # a first object that leaves no place for a second is given up
        colors = draw.shuffled(list(COLORS))
        objects = []
        for k in range(count):
            item = _place_object(draw, colors[k], camera, extent, objects)
            if item is not None:
                objects.append(item)
    return Scene(tuple(objects), camera, light, brightness, glow, ground)


class _Draws:
    """Uniform draws from (seed, index). numpy keeps the raw stream of PCG64 for ever, Generator's use of it not."""

    def __init__(self, seed: int, index: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence((seed & 0xFFFFFFFFFFFFFFFF, index)))
        self._next: list[int] = []

    def between(self, low: float, high: float) -> float:
        if not self._next:
            self._next = self._bits.random_raw(64).tolist()
        return low + (high - low) * ((self._next.pop() >> 11) * 2.0**-53)

    def below(self, n: int) -> int:
        return int(self.between(0.0, 1.0) * n)

    def shuffled(self, items: list[str]) -> list[str]:
        for i in range(len(items) - 1, 0, -1):
            j = self.below(i + 1)
            items[i], items[j] = items[j], items[i]
        return items

    def direction(self) -> tuple[float, float]:
        """A uniform point of the unit circle, by rejection: no sine or cosine."""
        while True:
            a, b = self.between(-1.0, 1.0), self.between(-1.0, 1.0)
            length = math.sqrt(a * a + b * b)
            if 0.1 < length <= 1.0:
                return a / length, b / length


def _place_camera(draw: _Draws) -> Camera:
    position = (draw.between(-0.5, 0.5), -11.6 + draw.between(-0.4, 0.4), 8.6 + draw.between(-0.4, 0.4))
    target = (draw.between(-0.1, 0.1), draw.between(-0.1, 0.1), 0.45)
    forward = _unit((target[0] - position[0], target[1] - position[1], target[2] - position[2]))
    right = _unit((forward[1], -forward[0], 0.0))
    up = _cross(right, forward)
    return Camera(position, right, up, forward, _FOCAL)


def _place_object(
    draw: _Draws, color: str, camera: Camera, extent: tuple[float, float], others: list[SceneObject]
) -> SceneObject | None:
    """An object inside the frame, clear of the others on the ground and not hidden by, or hiding, any of them."""
    shape, material = SHAPES[draw.below(len(SHAPES))], MATERIALS[draw.below(len(MATERIALS))]
    size = tuple(SIZES)[draw.below(len(SIZES))]
    half = SIZES[size] * _HALF[shape]
    turn = draw.direction()
    # Its middle stays about its own radius away from the rim; exactly how far is checked below.
    tall, wide = extent[0] - _MARGIN - half / 5.5, extent[1] - _MARGIN - half / 5.5
    for _ in range(_TRIES):
        # Choose where it appears, then find where it stands: every frame shape is filled alike.
        v, u = draw.between(-tall, tall), draw.between(-wide, wide)
        ray = tuple(camera.forward[i] * camera.focal + camera.right[i] * u + camera.up[i] * v for i in range(3))
        if ray[2] >= -0.05:
            continue  # above the horizon, or nearly
        reach = (half - camera.position[2]) / ray[2]
        item = SceneObject(
            shape, size, material, color,
            camera.position[0] + reach * ray[0], camera.position[1] + reach * ray[1], half, turn,
        )  # fmt: skip
        if _inside(item, camera, extent) and all(_apart(item, other, camera) for other in others):
            return item
    return None


def _inside(item: SceneObject, camera: Camera, extent: tuple[float, float]) -> bool:
    """Whether the frame shows all of an object."""
    h, margin = item.half, _MARGIN
    if item.shape == "sphere":
        points: list[Vector] = [(item.x, item.y, h)]
        margin += 1.06 * camera.focal * h / camera.project(*points[0])[2]
    elif item.shape == "cube":
        c, s = item.turn
        corners = [(h * (i * c - j * s), h * (i * s + j * c)) for i in (-1, 1) for j in (-1, 1)]
        points = [(item.x + x, item.y + y, z) for x, y in corners for z in (0.0, 2.0 * h)]
    else:
        rim = [(h, 0.0), (-h, 0.0), (0.0, h), (0.0, -h)]
        points = [(item.x + x, item.y + y, z) for x, y in rim for z in (0.0, 2.0 * h)]
    places = (camera.project(*point) for point in points)
    return all(abs(v) <= extent[0] - margin and abs(u) <= extent[1] - margin for u, v, _ in places)


def _apart(a: SceneObject, b: SceneObject, camera: Camera) -> bool:
    """Whether two objects neither touch nor hide each other's middle."""
    least = a.footprint + b.footprint + _GAP
    dx, dy = a.x - b.x, a.y - b.y  # products, not **2: C's pow may differ in the last bit
    if dx * dx + dy * dy < least * least:
        return False
    ua, va, depth_a = camera.project(a.x, a.y, a.half)
    ub, vb, depth_b = camera.project(b.x, b.y, b.half)
    ra, rb = camera.focal * _ROUND[a.shape] * a.half / depth_a, camera.focal * _ROUND[b.shape] * b.half / depth_b
    near, far = (ra, rb) if depth_a < depth_b else (rb, ra)
    least = near + 0.2 * far
    du, dv = ua - ub, va - vb
    return du * du + dv * dv >= least * least


def _dot(a: Vector, b: Vector) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _cross(a: Vector, b: Vector) -> Vector:
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


def _unit(a: Vector) -> Vector:
    length = math.sqrt(_dot(a, a))
    return a[0] / length, a[1] / length, a[2] / length
