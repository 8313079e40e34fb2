"""A head made of formulas: tissue fractions that need no data file, for tests and bare installations.

Nested superellipsoids (a shape between an ellipsoid and a box) with a folded cortical ribbon, lateral
ventricles, deep grey nuclei and the interhemispheric fissure. It has a brain's topology, not its detail.
"""

from __future__ import annotations

import numpy as np

from common.data.phantom.fields import Array

SEMI_AXES_MM = (68.0, 86.0, 67.0)
RIBBON_MM = 3.5
"""Thickness of the cortex."""


def analytic_fractions(spacing_mm: float) -> tuple[Array, Array, tuple[float, float, float]]:
    """CSF, GM, WM (3, X, Y, Z), the brain mask, and the world position (RAS) of the first voxel."""
    centre = np.array([0.0, -17.0, 5.0])
    half = np.array(SEMI_AXES_MM) + 4
    axes = [np.arange(c - h, c + h, spacing_mm) for c, h in zip(centre, half, strict=True)]
    x, y, z = np.meshgrid(*(a - c for a, c in zip(axes, centre, strict=True)), indexing="ij")
    depth = _depth_mm(x, y, z, SEMI_AXES_MM, 2.3)
    folds = _folding(x, y, z)
    outer = depth + 6.0 * np.minimum(folds, 0) * (depth < 18) - 1.5
    # Folding makes a ribbon of 3.5 mm three times as thick along a ray.
    inner = depth - 3.5 * RIBBON_MM + 11.0 * folds * np.exp(-np.maximum(depth, 0) / 30)
    fissure = np.abs(x) - 1.5 - 0.02 * np.abs(y)
    fissure = np.where(z > 12, fissure, 10.0)
    cortex_out = np.minimum(outer, fissure)
    white_out = np.minimum(inner, np.where(z > 22, np.abs(x) - 1.5 - RIBBON_MM, 10.0))
    ventricle = _ventricles(x, y, z)
    nuclei = _nuclei(x, y, z)
    tissue = _soft(cortex_out, spacing_mm) * (1 - _soft(ventricle, spacing_mm))
    white = tissue * _soft(white_out, spacing_mm) * (1 - _soft(nuclei, spacing_mm))
    fractions = np.stack([1 - tissue, tissue - white, white]).astype(np.float32)
    return (
        fractions,
        (depth > 0).astype(np.float32),
        (float(axes[0][0]), float(axes[1][0]), float(axes[2][0])),
    )


def _depth_mm(x: Array, y: Array, z: Array, semi_axes: tuple[float, float, float], power: float) -> Array:
    """Approximate distance below the surface of a superellipsoid; negative outside."""
    a, b, c = semi_axes
    radius = (np.abs(x / a) ** power + np.abs(y / b) ** power + np.abs(z / c) ** power) ** (1 / power)
    depth: Array = (1 - radius) * min(semi_axes)
    return depth


def _folding(x: Array, y: Array, z: Array) -> Array:
    """Gyri and sulci: a product of waves of about 17 mm, -1 to 1."""
    folds: Array = (
        np.sin(0.37 * x + 1.5 * np.sin(0.11 * z))
        * np.sin(0.33 * y + 1.5 * np.sin(0.13 * x))
        * np.sin(0.35 * z + 1.2 * np.sin(0.12 * y) + 0.8)
    )
    return np.cbrt(folds)


def _ventricles(x: Array, y: Array, z: Array) -> Array:
    side = np.abs(x)
    horn = _depth_mm(side - 11 - 0.12 * np.abs(y), y, z - 8 + 0.12 * np.abs(y), (6.0, 34.0, 9.0), 2.0)
    third = _depth_mm(x, y + 4, z + 4, (2.5, 14.0, 10.0), 2.0)
    return np.maximum(horn, third)


def _nuclei(x: Array, y: Array, z: Array) -> Array:
    side = np.abs(x)
    thalamus = _depth_mm(side - 11, y + 10, z + 3, (8.0, 14.0, 9.0), 2.0)
    putamen = _depth_mm(side - 26, y - 8, z + 4, (6.0, 16.0, 10.0), 2.0)
    return np.maximum(thalamus, putamen)


def _soft(depth_mm: Array, spacing_mm: float) -> Array:
    """Fraction of a voxel that lies inside a border at depth 0."""
    return np.asarray(np.clip(depth_mm / spacing_mm + 0.5, 0, 1))
