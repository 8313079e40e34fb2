"""White-matter bundles of a phantom head: five tubes, pushed aside and interrupted by its tumour.

A tube is a smooth curve in MNI space with a radius, the same on both sides of the head, cut to white
matter. The names say that they are synthetic: the courses are sketched after well known association and
projection tracts and taken from no atlas and no tractogram. Where the tumour pushes tissue aside the tubes
move along, since they are laid through the position in MNI space that each voxel of the subject shows.

What is true, where a tumour is: the displaced tube, less the tumour's core (NCR, ET), in which no white
matter is left. Oedema and infiltrating tumour leave a bundle where it is, and only make it harder to see
(`diffusion`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import make_interp_spline
from scipy.spatial import cKDTree

from common.data.phantom import fields
from common.data.phantom.fields import Array

Points = tuple[tuple[float, float, float], ...]


@dataclass(frozen=True)
class Tube:
    """The course of a bundle in the right half of the head; the left one is its mirror image.

    Attributes:
        points: positions (R, A, S) in MNI space, mm, through which the curve runs.
        radius_mm: 4 to 8.
    """

    points: Points
    radius_mm: float


TUBES: Mapping[str, Tube] = {
    "tube-cst": Tube(
        ((31, -22, 58), (27, -21, 38), (23, -16, 12), (15, -18, -10), (8, -24, -28), (5, -31, -46)), 6.5
    ),
    "tube-af": Tube(
        (
            (43, 14, 18), (38, -4, 27), (36, -26, 29), (39, -43, 19),
            (45, -46, 2), (50, -36, -9), (53, -24, -14),
        ),
        5.5,
    ),
    "tube-ifof": Tube(
        (
            (26, 46, 2), (28, 28, 2), (31, 10, -5), (37, -10, -5),
            (37, -32, -2), (33, -52, 5), (27, -70, 6), (19, -86, 6),
        ),
        5.5,
    ),
    "tube-ilf": Tube(
        ((37, 0, -32), (43, -16, -22), (42, -36, -12), (38, -54, -5), (31, -70, -1), (24, -84, 2)), 6.0
    ),
    "tube-uf": Tube(((20, 38, -8), (25, 24, -9), (32, 9, -13), (37, 3, -22), (36, 2, -33)), 5.0),
}  # fmt: skip
"""Name -> course. Synthetic: see the module."""

NEIGHBOUR_SD_MM, SHIFT_SD_MM, RADIUS_SD = 1.0, 1.0, 0.08
"""How subjects differ beyond their anatomy: each point, the whole curve, and the log radius."""

WHITE = 0.5
"""White-matter fraction above which a voxel can belong to a bundle."""

STEP_MM = 1.0
"""Distance of the samples along a curve."""


@dataclass(frozen=True)
class Course:
    """One side's curve of one subject, drawn: its points and radius, mm."""

    points: Points
    radius_mm: float


@dataclass(frozen=True, eq=False)
class Laid:
    """A subject's tubes on the working grid.

    Attributes:
        masks: bool (5, X, Y, Z) in the order of TUBES, cut to white matter, through the tumour too.
        profile: (X, Y, Z) nearness to the middle of the nearest tube, 0 to 1.
        direction: (3, X, Y, Z) unit vectors (R, A, S) along the nearest tube, as displaced.
    """

    masks: NDArray[np.bool_]
    profile: Array
    direction: Array


def draw_courses(rng: np.random.Generator) -> dict[str, tuple[Course, Course]]:
    """One subject's curves: name -> right and left."""
    return {name: (_drawn(tube, 1.0, rng), _drawn(tube, -1.0, rng)) for name, tube in TUBES.items()}


def lay(
    courses: Mapping[str, tuple[Course, Course]], position_mm: Array, white: Array, *, spacing_mm: float
) -> Laid:
    """The tubes where `position_mm` shows them.

    Args:
        courses: of the subject.
        position_mm: (3, X, Y, Z) MNI position that each voxel shows, displaced by the tumour if there is one;
            array axes run L, P, S.
        white: (X, Y, Z) fraction of white matter, displaced likewise.
        spacing_mm: of the grid.
    """
    shape = white.shape
    masks = np.zeros((len(courses), *shape), dtype=np.bool_)
    nearest = np.full(shape, np.inf, np.float32)
    tangent = np.zeros((3, *shape), np.float32)
    present = np.asarray(white > 0.05)
    places = position_mm[:, present].T
    nearest_here, tangent_here = nearest[present], tangent[:, present]
    for mask, sides in zip(masks, courses.values(), strict=True):
        for course in sides:
            points, along = curve(course.points)
            distance, index = cKDTree(points).query(places)
            relative = np.asarray(distance / course.radius_mm, np.float32)
            mask[present] |= relative <= 1
            closer = relative < nearest_here
            nearest_here[closer] = relative[closer]
            tangent_here[:, closer] = along[np.asarray(index)[closer]].T
    nearest[present], tangent[:, present] = nearest_here, tangent_here
    return Laid(
        masks=masks & (white > WHITE),
        profile=fields.sigmoid((1.0 - nearest) / 0.15).astype(np.float32),
        direction=into_subject(tangent, position_mm, spacing_mm),
    )


def curve(points: Points) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Samples (N, 3) about every `STEP_MM` on the cubic spline through `points`, and unit tangents (N, 3)."""
    knots = np.array(points, dtype=np.float64)
    chord = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(knots, axis=0), axis=1))])
    spline = make_interp_spline(chord, knots, k=3)
    at = np.linspace(0, chord[-1], max(2, round(chord[-1] / STEP_MM) + 1))
    along = spline(at, 1)
    return np.asarray(spline(at)), np.asarray(along / np.linalg.norm(along, axis=1, keepdims=True))


def into_subject(tangent: Array, position_mm: Array, spacing_mm: float) -> Array:
    """Directions (3, X, Y, Z) in MNI space as the subject shows them: t_subject = J^-1 t_mni, of length 1.

    J is the gradient of `position_mm` with respect to the subject's own (R, A, S) position. Where no
    direction is given (0) none comes back.
    """
    gradient = np.stack([np.stack(np.gradient(channel, spacing_mm)) for channel in position_mm])
    gradient[:, :2] *= -1  # array axes run L, P, S; positions R, A, S
    jacobian = np.moveaxis(gradient, (0, 1), (-2, -1))
    known = np.linalg.norm(tangent, axis=0) > 0
    moved = np.zeros_like(tangent)
    solved = np.linalg.solve(
        jacobian[known] + 1e-6 * np.eye(3, dtype=np.float32), tangent[:, known].T[..., None]
    )[..., 0]
    moved[:, known] = (solved / np.maximum(np.linalg.norm(solved, axis=1, keepdims=True), 1e-6)).T
    return moved


def _drawn(tube: Tube, side: float, rng: np.random.Generator) -> Course:
    offset = SHIFT_SD_MM * rng.standard_normal(3) + NEIGHBOUR_SD_MM * rng.standard_normal(
        (len(tube.points), 3)
    )
    points = np.clip(offset, -5, 5) + np.array(tube.points)
    points[:, 0] *= side
    radius = tube.radius_mm * float(np.exp(RADIUS_SD * np.clip(rng.standard_normal(), -2, 2)))
    return Course(tuple((float(x), float(y), float(z)) for x, y, z in points), min(max(radius, 4.0), 8.0))
