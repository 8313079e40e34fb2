"""Tubes: their curves, where they lie, and how a displacement moves and turns them."""

from __future__ import annotations

import numpy as np
import pytest

from common.data.phantom import fields
from common.data.phantom.anatomy import (
    build_anatomy,
    draw_anatomy,
    grid_affine,
    grid_shape,
    template_position,
)
from common.data.phantom.bundles import TUBES, Course, curve, draw_courses, into_subject, lay
from common.data.phantom.fields import Array

SPACING_MM = 3.0
VOXEL_ML = 0.027


def straight_grid() -> Array:
    """MNI positions of a grid that nothing deforms."""
    affine = grid_affine(SPACING_MM)
    index = fields.voxel_index(grid_shape(SPACING_MM))
    world = np.tensordot(affine[:3, :3], index, 1) + affine[:3, 3, None, None, None]
    return np.asarray(world, np.float32)


def along_x(radius_mm: float = 6.0) -> dict[str, tuple[Course, Course]]:
    """One tube straight along R, on both sides the same."""
    course = Course(((-40.0, 0.0, 10.0), (-15.0, 0.0, 10.0), (15.0, 0.0, 10.0), (40.0, 0.0, 10.0)), radius_mm)
    return {"tube": (course, course)}


@pytest.mark.parametrize("name", TUBES)
def test_a_curve_runs_through_its_points_and_its_tangents_are_its_differences(name: str) -> None:
    points, along = curve(TUBES[name].points)

    for point in TUBES[name].points:
        assert np.linalg.norm(points - np.array(point), axis=1).min() < 0.6
    np.testing.assert_allclose(np.linalg.norm(along, axis=1), 1)
    steps = np.diff(points, axis=0)
    middle = (along[1:] + along[:-1]) / 2
    np.testing.assert_allclose(steps / np.linalg.norm(steps, axis=1, keepdims=True), middle, atol=0.05)


def test_the_volume_of_a_straight_tube_is_that_of_a_cylinder() -> None:
    position = straight_grid()

    laid = lay(along_x(6.0), position, np.ones(position.shape[1:], np.float32), spacing_mm=SPACING_MM)

    cylinder = np.pi * 6.0**2 * 80 + 4 / 3 * np.pi * 6.0**3
    assert laid.masks[0].sum() * VOXEL_ML * 1000 == pytest.approx(cylinder, rel=0.15)
    np.testing.assert_allclose(np.abs(laid.direction[0][laid.masks[0]]), 1, atol=1e-4)


def test_a_tube_is_cut_to_white_matter() -> None:
    position = straight_grid()
    white = (position[0] > 0).astype(np.float32)

    laid = lay(along_x(), position, white, spacing_mm=SPACING_MM)

    assert laid.masks[0].any()
    assert not laid.masks[0][position[0] <= 0].any()


def test_what_is_pushed_aside_takes_its_tube_along() -> None:
    position = straight_grid()
    shift = np.zeros_like(position)
    shift[2] = 6.0  # two voxels upwards

    moved = lay(
        along_x(),
        fields.displace(position, shift, SPACING_MM),
        np.ones(position.shape[1:], np.float32),
        spacing_mm=SPACING_MM,
    )
    still = lay(along_x(), position, np.ones(position.shape[1:], np.float32), spacing_mm=SPACING_MM)

    np.testing.assert_array_equal(moved.masks[0][..., 4:-4], np.roll(still.masks[0], 2, axis=2)[..., 4:-4])


def test_a_direction_turns_with_the_tissue() -> None:
    # The subject's head is turned by 90 degrees about S: what it shows towards R lies towards A in MNI space.
    position = straight_grid()
    turned = np.stack([-position[1], position[0], position[2]])
    tangent = np.zeros_like(position)
    tangent[1] = 1.0

    inside = into_subject(tangent, turned, SPACING_MM)[:, 5:-5, 5:-5, 5:-5]

    np.testing.assert_allclose(np.abs(inside[0]), 1, atol=1e-3)
    np.testing.assert_allclose(inside[1:], 0, atol=1e-3)


def test_subjects_tubes_are_of_plausible_size_on_both_sides_and_repeat() -> None:
    parameters = draw_anatomy(np.random.default_rng(4))
    anatomy = build_anatomy(parameters, spacing_mm=SPACING_MM)
    position = template_position(parameters, spacing_mm=SPACING_MM)
    courses = draw_courses(np.random.default_rng(5))

    laid = lay(courses, position, anatomy.fractions[2], spacing_mm=SPACING_MM)

    assert courses == draw_courses(np.random.default_rng(5))
    for name, mask in zip(TUBES, laid.masks, strict=True):
        for side in (position[0] > 0, position[0] < 0):
            assert 0.8 < (mask & side).sum() * VOXEL_ML < 20, name
        assert (anatomy.fractions[2][mask] > 0.5).all()
    assert all(4 <= course.radius_mm <= 8 for sides in courses.values() for course in sides)
