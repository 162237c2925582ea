"""Draws a scene by casting rays at spheres, boxes and cylinders, in closed form, with numpy alone.

Each object is met only within its box on the screen. All of them are convex and stand on the ground, which makes
shadows cheap: the light is parallel, so a point is in an object's shadow when, carried along the light to the ground,
it falls into a plain figure there (an ellipse, a hexagon, a capsule), and the point lies behind the object. The
distance to that figure's rim gives the soft edge.

Pixel arithmetic is float32, as numpy leaves it where a plane meets a Python number, and uses only + - * / and square
root, in a fixed order, all of which IEEE 754 fixes to the last bit; powers are repeated products and the display curve
is a square root (gamma 2). So the bytes do not depend on the machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ganformer_cli.data.images import ImageArray
from ganformer_cli.data.scenes.composition import COLORS, Camera, Scene, SceneObject, Vector, frame_extent

Plane = npt.NDArray[np.floating[Any]]  # float32; for mypy, a Python number makes float64 of it
Window = tuple[slice, slice]

_SKY = (0.80, 0.84, 0.90)  # colour of the light from above
_WARM = (1.03, 1.0, 0.94)  # colour of the key light
_KEY, _AMBIENT, _FILL = 0.98, 0.34, 0.16  # strengths
_FILL_FROM: Vector = (0.78, -0.50, 0.375)  # a weak light from the other side, without shadows
_BAND = 40_000  # samples in work at once: they stay in the processor's cache
_HAZE = 60.0  # where the ground is lost to haze, world units


@dataclass(frozen=True)
class _Rays:
    """Sample rays: through (u[j], v[i]) of the image plane. ``square`` is the squared length of each direction."""

    x: Plane
    y: Plane
    z: Plane
    square: Plane
    left: float  # u of the left rim and v of the upper rim
    top: float
    u_step: float
    v_step: float


def render(scene: Scene, height: int, width: int) -> ImageArray:
    """The image of a scene: uint8 [3, height, width], RGB."""
    samples = supersampling(height, width)
    image = np.empty((3, height, width), np.uint8)
    step = max(1, _BAND // (width * samples * samples))  # rows
    for first in range(0, height, step):
        last = min(first + step, height)
        rays = _rays(scene.camera, height, width, samples, first, last)
        for channel, plane in enumerate(_shade(scene, rays)):
            np.minimum(plane, 1, out=plane)  # a highlight counts once, so its rim is smooth too
            linear = _pool(plane, samples) * (1.0 / (samples * samples))
            image[channel, first:last] = np.sqrt(linear) * 255.0 + 0.5
    return image


def render_mask(scene: Scene, height: int, width: int) -> ImageArray:
    """Which object covers most of each pixel: uint8 [height, width]; 0 ground, k ``scene.objects[k - 1]``."""
    samples = supersampling(height, width)
    owner = _cast(scene, _rays(scene.camera, height, width, samples, 0, height))[1]
    votes = [_pool((owner == k).astype(np.float32), samples) for k in range(len(scene.objects) + 1)]
    winner: ImageArray = np.argmax(votes, axis=0).astype(np.uint8)
    return winner


def supersampling(height: int, width: int) -> int:
    """Samples along each side of a pixel: more for small images, where every edge shows."""
    return 3 if max(height, width) < 64 else 2


def _pool(plane: Plane, samples: int) -> Plane:
    """Sum each ``samples`` x ``samples`` block, always in the same order (numpy's own sums may change theirs)."""
    rows = plane[0::samples].copy()
    for i in range(1, samples):
        rows += plane[i::samples]
    total = rows[:, 0::samples].copy()
    for j in range(1, samples):
        total += rows[:, j::samples]
    return total


def _rays(camera: Camera, height: int, width: int, samples: int, first: int, last: int) -> _Rays:
    """Rays of the pixel rows ``first`` to ``last``, ``samples`` by ``samples`` a pixel."""
    half_height, half_width = frame_extent(height, width)
    v_step, u_step = 2.0 * half_height / (height * samples), 2.0 * half_width / (width * samples)
    top = half_height - first * samples * v_step
    u = ((np.arange(width * samples) + 0.5) * u_step - half_width).astype(np.float32)[None, :]
    v = (top - (np.arange((last - first) * samples) + 0.5) * v_step).astype(np.float32)[:, None]
    x, y, z = ((v * camera.up[i] + camera.forward[i] * camera.focal) + u * camera.right[i] for i in range(3))
    return _Rays(x, y, z, (v * v + camera.focal * camera.focal) + u * u, -half_width, top, u_step, v_step)


def _window(rays: _Rays, camera: Camera, points: list[Vector]) -> Window:
    """The part of the screen that holds the projections of ``points``, with a sample to spare."""
    rows, columns = rays.square.shape
    seen = [camera.project(*point) for point in points]
    if min(depth for _, _, depth in seen) < 0.1:  # beside the camera: no box to speak of
        return slice(0, rows), slice(0, columns)
    us, vs = [u for u, _, _ in seen], [v for _, v, _ in seen]
    top, bottom = (rays.top - max(vs)) / rays.v_step - 1, (rays.top - min(vs)) / rays.v_step + 2
    left, right = (min(us) - rays.left) / rays.u_step - 1, (max(us) - rays.left) / rays.u_step + 2
    return _within(top, bottom, rows), _within(left, right, columns)


def _within(first: float, last: float, count: int) -> slice:
    return slice(min(max(int(first), 0), count), min(max(int(last), 0), count))


def _box(item: SceneObject, reach: float, height: float) -> list[Vector]:
    """Corners of the upright box of half side ``reach`` around an object."""
    return [(item.x + i * reach, item.y + j * reach, k) for i in (-1, 1) for j in (-1, 1) for k in (0.0, height)]


# ---- Which object a ray meets ----------------------------------------------------------------------------------------


def _cast(scene: Scene, rays: _Rays) -> tuple[Plane, ImageArray, Plane]:
    """The nearest thing along each ray.

    Returns:
        distance [rows, columns] in lengths of the ray's direction; owner, uint8 [rows, columns], 0 for the ground;
        normal [3, rows, columns], unit vectors, (0, 0, 1) on the ground.
    """
    camera = scene.camera
    # Rays at or above the horizon meet the ground far away, in the haze.
    drop = np.float32(-camera.position[2])
    far: Plane = np.divide(drop, np.minimum(rays.z, drop / np.float32(_HAZE)))
    owner: ImageArray = np.zeros(far.shape, np.uint8)
    normal = np.zeros((3, *far.shape), np.float32)
    normal[2] = 1.0
    for k, item in enumerate(scene.objects, start=1):
        window = _window(rays, camera, _box(item, item.footprint, 2.0 * item.half))
        direction = (rays.x[window], rays.y[window], rays.z[window])
        start = (camera.position[0] - item.x, camera.position[1] - item.y, camera.position[2] - item.half)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # rays beside an object divide by nothing
            if item.shape == "sphere":
                distance, hit, around = _meet_sphere(start, direction, rays.square[window], item.half)
            elif item.shape == "cube":
                distance, hit, around = _meet_cube(start, direction, item.half, item.turn)
            else:
                distance, hit, around = _meet_cylinder(start, direction, item.half)
        hit &= distance < far[window]
        np.copyto(far[window], distance, where=hit)
        np.copyto(owner[window], np.uint8(k), where=hit)
        for axis in range(3):
            np.copyto(normal[axis][window], around[axis], where=hit)
    return far, owner, normal


Meeting = tuple[Plane, npt.NDArray[np.bool_], tuple[Plane, Plane, Plane]]


def _meet_sphere(start: Vector, ray: tuple[Plane, Plane, Plane], square: Plane, radius: float) -> Meeting:
    along = ray[0] * start[0] + ray[1] * start[1] + ray[2] * start[2]
    inside = along * along - square * (
        start[0] * start[0] + start[1] * start[1] + start[2] * start[2] - radius * radius
    )
    hit = inside > 0
    distance = -(along + np.sqrt(np.maximum(inside, 0))) / square
    x, y, z = ((ray[i] * distance + start[i]) * (1.0 / radius) for i in range(3))
    return distance, hit, (x, y, z)


def _meet_cube(start: Vector, ray: tuple[Plane, Plane, Plane], half: float, turn: tuple[float, float]) -> Meeting:
    cosine, sine = turn
    o = (start[0] * cosine + start[1] * sine, start[1] * cosine - start[0] * sine, start[2])
    d = (ray[0] * cosine + ray[1] * sine, ray[1] * cosine - ray[0] * sine, ray[2])
    # Slabs: inside the cube between the last entry and the first exit.
    entry: Any = -np.inf
    leave: Any = np.inf
    for axis in range(3):
        inverse = 1.0 / d[axis]
        middle, spread = inverse * -o[axis], np.abs(inverse) * half
        entry = np.maximum(entry, middle - spread)
        leave = np.minimum(leave, middle + spread)
    hit = entry < leave
    # Normals lean towards the neighbouring face close to an edge, which shades it as if it were rounded.
    x, y, z = (_bevel((d[i] * entry + o[i]) * (1.0 / half)) for i in range(3))
    x, y, z = _normalised(x, y, z)
    return entry, hit, (x * cosine - y * sine, x * sine + y * cosine, z)


def _meet_cylinder(start: Vector, ray: tuple[Plane, Plane, Plane], half: float) -> Meeting:
    square = ray[0] * ray[0] + ray[1] * ray[1]
    along = ray[0] * start[0] + ray[1] * start[1]
    inside = along * along - square * (start[0] * start[0] + start[1] * start[1] - half * half)
    root = np.sqrt(np.maximum(inside, 0))
    inverse = 1.0 / square
    cap = 1.0 / ray[2]
    middle, spread = cap * -start[2], np.abs(cap) * half
    entry = np.maximum((-along - root) * inverse, middle - spread)
    leave = np.minimum((root - along) * inverse, middle + spread)
    hit = (entry < leave) & (inside > 0)
    x, y, z = ((ray[i] * entry + start[i]) * (1.0 / half) for i in range(3))
    # As in the cube: the side's normal near the middle of the side, the cap's on the cap, in between on the rim.
    out = np.sqrt(x * x + y * y)
    side = _bevel(out) / np.maximum(out, 1e-3)
    x, y, z = _normalised(x * side, y * side, _bevel(z))
    return entry, hit, (x, y, z)


def _bevel(q: Plane) -> Plane:
    """q to the 17th: nearly 0 but close to the faces q = -1 and q = 1."""
    p = q * q
    p *= p
    p *= p
    p *= p
    return p * q


def _normalised(x: Plane, y: Plane, z: Plane) -> tuple[Plane, Plane, Plane]:
    scale = 1.0 / np.sqrt(x * x + y * y + z * z + 1e-12)
    return x * scale, y * scale, z * scale


# ---- Light and shadow ------------------------------------------------------------------------------------------------


def _shade(scene: Scene, rays: _Rays) -> list[Plane]:
    """Linear-light colour of every sample: three planes [rows, columns], not clipped above."""
    camera, light = scene.camera, scene.light
    distance, owner, normal = _cast(scene, rays)
    x, y, z = (distance * ray + camera.position[i] for i, ray in enumerate((rays.x, rays.y, rays.z)))
    lit, open_sky = _shadows(scene, rays, x, y, z, owner)

    # Ground: the lamp's glow falls off around its middle.
    off = np.square(x - scene.glow[0]) + np.square(y - scene.glow[1])
    glow = 1.0 / (off * 0.018 + 1.0)
    direct = lit * glow
    direct *= _KEY * scene.brightness * light[2]
    ambient = open_sky * (glow * 0.6 + 0.4)
    ambient *= _AMBIENT
    color: list[Plane] = [(direct * _WARM[i] + ambient * (_SKY[i] + 0.1)) * scene.ground[i] for i in range(3)]

    # Objects: only their own samples, gathered into one row.
    at = np.flatnonzero(owner)
    if at.size:
        _shade_objects(scene, rays, at, owner, normal, lit, z, color)
    return color


def _shade_objects(
    scene: Scene, rays: _Rays, at: npt.NDArray[np.intp], owner: ImageArray, normal: Plane, lit: Plane, z: Plane,
    color: list[Plane],
) -> None:  # fmt: skip
    """Overwrite the samples ``at`` of ``color`` with the light that their object sends to the camera."""
    light = scene.light
    who = owner.ravel()[at]
    nx, ny, nz = (plane.ravel()[at] for plane in normal)
    reach = -1.0 / np.sqrt(rays.square.ravel()[at])
    vx, vy, vz = (ray.ravel()[at] * reach for ray in (rays.x, rays.y, rays.z))  # towards the camera
    shine = lit.ravel()[at]
    facing = np.maximum(nx * vx + ny * vy + nz * vz, 0)
    direct = shine * np.maximum(nx * light[0] + ny * light[1] + nz * light[2], 0)
    direct *= _KEY * scene.brightness
    fill = np.maximum(nx * _FILL_FROM[0] + ny * _FILL_FROM[1] + nz * _FILL_FROM[2], 0)
    near_ground = np.minimum(z.ravel()[at] * 0.9 + 0.45, 1)
    ambient = (nz * (0.5 * _AMBIENT) + (0.62 * _AMBIENT)) * near_ground + fill * _FILL
    diffuse = direct + ambient

    # The mirrored view, against the key light and against a plain room: bright above, dark horizon, ground below.
    twice = facing * 2
    rx, ry, rz = nx * twice - vx, ny * twice - vy, nz * twice - vz
    gleam = np.maximum(rx * light[0] + ry * light[1] + rz * light[2], 0)
    soft = np.square(np.square(np.square(gleam)))  # 8th power
    sharp = np.square(np.square(np.square(soft)))  # 64th power
    above = np.maximum(rz, 0)
    below = np.maximum(-rz, 0)
    room = above * 0.78 + below * 0.30 + 0.10
    room = (room + soft * 0.55) * near_ground
    edge = 1 - facing
    edge = np.square(np.square(edge))

    # Per object: how much of each kind of light it sends, by material.
    metal = np.array([False] + [item.material == "metal" for item in scene.objects])
    matte_part = np.where(metal, 0.30, 1.0).astype(np.float32)[who]
    room_part = np.where(metal, 0.95, 0.0).astype(np.float32)[who]
    gloss_part = np.where(metal, 1.5, 0.0).astype(np.float32)[who]
    sheen_part = np.where(metal, 0.12, 0.05).astype(np.float32)[who]
    tinted = diffuse * matte_part + room * room_part
    white = sharp * shine * gloss_part + (soft * shine + edge) * sheen_part
    for i in range(3):
        paint = np.array([0.0] + [COLORS[item.color][i] for item in scene.objects], np.float32)[who]
        color[i].ravel()[at] = tinted * paint + white


def _shadows(scene: Scene, rays: _Rays, x: Plane, y: Plane, z: Plane, owner: ImageArray) -> tuple[Plane, Plane]:
    """How much of the key light, and of the sky's light on the ground, reaches each sample: two planes in 0..1."""
    light = scene.light
    slope_x, slope_y = light[0] / light[2], light[1] / light[2]
    level = math.sqrt(light[0] * light[0] + light[1] * light[1])
    toward = (light[0] / level, light[1] / level)
    lit, open_sky = np.ones_like(x), np.ones_like(x)
    # Where the light that passes a sample would meet the ground.
    gx, gy = x - z * slope_x, y - z * slope_y
    for k, item in enumerate(scene.objects, start=1):
        tall = 2.0 * item.half
        throw = (-slope_x * tall, -slope_y * tall)  # the shadow of the top, seen from the foot
        soft = 0.35 * item.half
        reach = item.footprint
        corners = _box(item, reach + soft, tall)
        corners += [(p + throw[0], q + throw[1], 0.0) for p, q, r in _box(item, reach + 2 * soft, 0.0)]
        window = _window(rays, scene.camera, corners)
        ex, ey = gx[window] - item.x, gy[window] - item.y
        if item.shape == "sphere":
            rim = _ball_shadow(ex, ey, item.half, light)
        elif item.shape == "cube":
            rim = _cube_shadow(ex, ey, item.half, item.turn, throw)
        else:
            rim = _disc_shadow(ex, ey, item.half, throw)
        # Behind the object, as the light goes: the edge softens with distance.
        behind = (item.x - x[window]) * toward[0] + (item.y - y[window]) * toward[1]
        width = np.maximum(behind, 0) * 0.17 + 0.05
        cover = np.clip(0.5 - rim / (width + width), 0, 1)
        cover *= np.clip(behind * (1.0 / reach) + 1, 0, 1)
        cover *= cover * (3 - cover - cover)
        cover *= owner[window] != k  # its own dark side comes from its normals
        lit[window] *= 1 - cover

        # The sky that an object hides from the ground beside it: a dark foot.
        wide = 2.1 * reach
        window = _window(rays, scene.camera, _box(item, wide, 0.0))
        off = np.square(x[window] - item.x) + np.square(y[window] - item.y)
        hidden = np.maximum(1 - off * (1.0 / (wide * wide)), 0)
        open_sky[window] *= 1 - np.square(hidden) * 0.85
    return lit, open_sky


def _ball_shadow(ex: Plane, ey: Plane, radius: float, light: Vector) -> Plane:
    """How far the light's line through a point of the ground passes outside a sphere (negative: inside)."""
    along = ex * light[0] + ey * light[1] - (radius * light[2])
    square = ex * ex + ey * ey + (radius * radius) - along * along
    return np.sqrt(np.maximum(square, 0)) - radius


def _disc_shadow(ex: Plane, ey: Plane, radius: float, throw: tuple[float, float]) -> Plane:
    """Distance to a disc swept along ``throw``, which is the shadow of a cylinder."""
    length = throw[0] * throw[0] + throw[1] * throw[1]
    part = (ex * throw[0] + ey * throw[1]) * (1.0 / length)
    part = np.clip(part, 0, 1)
    dx, dy = ex - part * throw[0], ey - part * throw[1]
    rim: Plane = np.sqrt(dx * dx + dy * dy) - radius
    return rim


def _cube_shadow(ex: Plane, ey: Plane, half: float, turn: tuple[float, float], throw: tuple[float, float]) -> Plane:
    """Distance to a square swept along ``throw``: a hexagon, the overlap of three strips."""
    cosine, sine = turn
    ax, ay = throw[0] * cosine + throw[1] * sine, throw[1] * cosine - throw[0] * sine
    bx = ex * cosine + ey * sine
    by = ey * cosine - ex * sine
    length = math.sqrt(ax * ax + ay * ay)
    px, py = -ay / length, ax / length  # across the sweep
    rim = np.abs(bx - (0.5 * ax)) - (half + 0.5 * abs(ax))
    rim = np.maximum(rim, np.abs(by - (0.5 * ay)) - (half + 0.5 * abs(ay)))
    across = np.abs(bx * px + by * py) - (half * (abs(px) + abs(py)))
    return np.maximum(rim, across)
