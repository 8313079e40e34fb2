from __future__ import annotations

import gzip
import os
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from common.data.cases import ImageSource
from common.data.volume import (
    Volume,
    inspect_header,
    orientation,
    read_label,
    read_volume,
    read_volumes,
    same_grid,
    write_volume,
)
from common.errors import DataError, RunError

AFFINE = np.array([[-1.0, 0, 0, 9], [0, 2.0, 0, -4], [0, 0, 3.0, 1], [0, 0, 0, 1]])


def ramp(shape: tuple[int, ...] = (4, 5, 6), dtype: str = "i2") -> np.ndarray[Any, Any]:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def nifti_bytes(array: np.ndarray[Any, Any], **fields: object) -> bytes:
    image = nib.Nifti1Image(array, AFFINE, dtype=array.dtype)
    content = bytearray(image.to_bytes())
    header = nib.Nifti1Header(bytes(content[: image.header.sizeof_hdr]))
    for field, value in fields.items():
        header[field] = value
    content[: header.sizeof_hdr] = header.binaryblock
    return bytes(content)


def put(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content) if path.name.endswith(".gz") else content)
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "f4", "f8", "i8"])
def test_what_nibabel_writes_is_read_as_nibabel_reads_it(tmp_path: Path, name: str, dtype: str) -> None:
    path = put(tmp_path / name, nifti_bytes(ramp(dtype=dtype)))
    volume = read_volume(path)
    theirs = nib.load(path)
    assert volume.array.dtype == np.float32
    assert np.array_equal(volume.array, theirs.get_fdata(dtype=np.float32))
    assert np.array_equal(volume.affine, theirs.affine)
    assert volume.spacing_mm == (1.0, 2.0, 3.0)
    assert volume.shape == (4, 5, 6)


@settings(max_examples=25, deadline=None)
@given(
    array=arrays(np.int16, st.tuples(*[st.integers(2, 5)] * 3)),
    packed=st.booleans(),
    flip=st.sampled_from([1.0, -1.0]),
)
def test_what_is_written_comes_back(
    tmp_path_factory: pytest.TempPathFactory, array: np.ndarray[Any, Any], packed: bool, flip: float
) -> None:
    path = tmp_path_factory.mktemp("v") / ("a.nii.gz" if packed else "a.nii")
    affine = AFFINE * np.array([flip, 1, 1, 1])
    write_volume(path, Volume(array, affine))
    back = read_volume(path, dtype=np.int16)
    assert np.array_equal(back.array, array)
    assert np.array_equal(back.affine, affine)
    theirs = nib.load(path)
    assert theirs.get_data_dtype() == np.int16
    assert np.array_equal(np.asarray(theirs.dataobj), array)
    assert (int(theirs.header["qform_code"]), int(theirs.header["sform_code"])) == (1, 1)
    assert np.allclose(theirs.get_qform(), theirs.get_sform(), atol=1e-6)


def test_big_endian_and_nifti_2(tmp_path: Path) -> None:
    image = nib.Nifti1Image(ramp(), AFFINE)
    swapped = nib.Nifti1Image(ramp(), AFFINE, header=image.header.as_byteswapped(">"))
    nib.save(swapped, tmp_path / "big.nii")
    nib.save(nib.Nifti2Image(ramp(), AFFINE), tmp_path / "two.nii.gz")
    assert inspect_header(tmp_path / "big.nii").dtype.byteorder == ">"
    for name in ("big.nii", "two.nii.gz"):
        assert np.array_equal(read_volume(tmp_path / name).array, ramp())


def test_scale_is_applied_and_a_scale_of_zero_or_nan_is_none(tmp_path: Path) -> None:
    scaled = put(tmp_path / "a.nii", nifti_bytes(ramp(), scl_slope=2.0, scl_inter=-1.0))
    assert np.array_equal(read_volume(scaled).array, ramp() * 2 - 1)
    for slope in (0.0, np.nan):
        path = put(tmp_path / "b.nii", nifti_bytes(ramp(), scl_slope=slope, scl_inter=5.0))
        assert np.array_equal(read_volume(path).array, ramp())


def test_a_channel_of_a_four_dimensional_file(tmp_path: Path) -> None:
    four = ramp((3, 4, 5, 4))
    path = put(tmp_path / "a.nii.gz", nifti_bytes(four))
    volumes = read_volumes([ImageSource(path, 2), ImageSource(path, 0)])
    assert np.array_equal(volumes[0].array, four[..., 2])
    assert np.array_equal(volumes[1].array, four[..., 0])
    with pytest.raises(DataError, match="holds 4 volumes"):
        read_volume(path)
    with pytest.raises(DataError, match="no volume 4"):
        read_volume(ImageSource(path, 4))


def test_a_trailing_axis_of_one_is_dropped(tmp_path: Path) -> None:
    path = put(tmp_path / "a.nii.gz", nifti_bytes(ramp((3, 4, 5, 1))))
    assert read_volume(path).shape == (3, 4, 5)


SHEARED = np.array([1, 0.5, 0, 0]), np.array([0, 1.0, 0, 0]), np.array([0, 0, 1.0, 0])


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"dim": [2, 4, 30, 1, 1, 1, 1, 1]}, "dimensions", "4x30"),
        ({"dim": [3, 4, 0, 6, 1, 1, 1, 1]}, "dimensions", "4x0x6"),
        ({"dim": [3, 4, -5, 6, 1, 1, 1, 1]}, "dimensions", "4x-5x6"),
        ({"dim": [9, 4, 5, 6, 1, 1, 1, 1]}, "dimensions", "unreadable"),
        ({"dim": [5, 2, 2, 2, 2, 2, 1, 1]}, "dimensions", "2x2x2x2x2"),
        ({"datatype": 128}, "voxel-type", "type 128"),
        ({"datatype": 32}, "voxel-type", "type 32"),
        ({"dim": [3, 3000, 3000, 3000, 1, 1, 1, 1]}, "too-large", "54.0 GB"),
        ({"dim": [4, 400, 400, 400, 9, 1, 1, 1]}, "too-large", "ceiling"),
        ({"vox_offset": 1e9}, "geometry", "byte 1e"),
        ({"vox_offset": np.nan}, "geometry", "byte nan"),
        ({"xyzt_units": 1}, "geometry", "metres"),
        ({"srow_x": [np.nan, 0, 0, 0]}, "geometry", "NaN"),
        ({"srow_x": [0, 0, 0, 0]}, "geometry", "spacing is 0"),
        ({"srow_x": [90.0, 0, 0, 0]}, "geometry", "spacing is 90"),
        ({"srow_x": SHEARED[0], "srow_y": SHEARED[1], "srow_z": SHEARED[2]}, "geometry", "right angles"),
        ({"sform_code": 0, "qform_code": 0, "pixdim": [1, 0, 0, 0, 0, 0, 0, 0]}, "geometry", "spacing is 0"),
        ({"sform_code": 0, "qform_code": 1, "quatern_b": 3.0}, "geometry", "orientation"),
        ({"scl_slope": np.float32(3e38)}, "not-finite", "infinite"),
        ({"magic": b"ni1\0"}, "not-nifti", "single-file"),
        ({"sizeof_hdr": 349}, "not-nifti", "no NIfTI header"),
    ],
)
def test_a_header_that_cannot_be_used_is_refused(
    tmp_path: Path, fields: dict[str, Any], code: str, words: str
) -> None:
    path = put(tmp_path / "scan.nii.gz", nifti_bytes(ramp() + 2, **fields))
    with pytest.raises(DataError, match=words) as caught:
        read_volume(path)
    assert caught.value.code == code
    assert str(caught.value).startswith("scan.nii.gz: ")
    assert str(tmp_path) not in str(caught.value)


def test_a_bomb_is_refused_without_its_memory(tmp_path: Path) -> None:
    header = nifti_bytes(ramp(), dim=[3, 700, 700, 300, 1, 1, 1, 1])[:352]
    short = put(tmp_path / "short.nii.gz", header + bytes(1000))
    behind = put(tmp_path / "behind.nii.gz", nifti_bytes(ramp()) + bytes(64 << 20))
    tracemalloc.start()
    for path, words in ((short, "cut short"), (behind, "behind the voxels")):
        with pytest.raises(DataError, match=words):
            read_volume(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 400e6


@settings(max_examples=150, deadline=None)
@given(
    flips=st.lists(st.tuples(st.integers(0, 351), st.integers(0, 255)), min_size=1, max_size=6),
    label=st.booleans(),
)
def test_a_header_of_any_bytes_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]], label: bool
) -> None:
    content = bytearray(nifti_bytes(ramp()))
    for at, value in flips:
        content[at] = value
    path = put(tmp_path_factory.mktemp("v") / "a.nii", bytes(content))
    try:
        volume = read_label(path) if label else read_volume(path)
    except DataError:
        return
    assert np.isfinite(volume.array).all()
    assert np.isfinite(volume.affine).all()


def test_damage_is_noticed(tmp_path: Path) -> None:
    whole = gzip.compress(nifti_bytes(ramp((20, 20, 20))))
    (tmp_path / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "crc.nii.gz").write_bytes(whole[:-8] + bytes(4) + whole[-4:])
    (tmp_path / "plain.nii").write_bytes(nifti_bytes(ramp())[:-1])
    (tmp_path / "short.nii").write_bytes(nifti_bytes(ramp())[:200])
    (tmp_path / "large.nii").write_bytes(nifti_bytes(ramp()) + bytes(3 << 20))
    for path in tmp_path.iterdir():
        with pytest.raises(DataError):
            read_volume(path)


def test_only_regular_files_of_the_folder_are_opened(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "case", tmp_path / "else"
    folder.mkdir()
    elsewhere.mkdir()
    real = put(elsewhere / "a.nii", nifti_bytes(ramp()))
    (folder / "out.nii").symlink_to(real)
    (folder / "loop.nii").symlink_to(folder / "loop.nii")
    (folder / "dir.nii").mkdir()
    os.mkfifo(folder / "pipe.nii")
    messages = {}
    for name in ("out.nii", "loop.nii", "dir.nii", "pipe.nii", "none.nii"):
        with pytest.raises(DataError) as caught:
            read_volume(folder / name)
        messages[name] = str(caught.value)
        assert caught.value.code == "not-a-file"
    assert "another folder" in messages["out.nii"]
    assert "not a regular file" in messages["pipe.nii"]
    put(folder / "a.nii", nifti_bytes(ramp()))
    (folder / "in.nii").symlink_to(folder / "a.nii")
    assert read_volume(folder / "in.nii").shape == (4, 5, 6)


def test_voxels_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    for bad in (np.nan, np.inf, -np.inf):
        array = ramp(dtype="f4")
        array[1, 2, 3] = bad
        path = put(tmp_path / "a.nii", nifti_bytes(array))
        with pytest.raises(DataError, match="NaN or infinite"):
            read_volume(path)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (ramp(dtype="f4") / 2, "fractional"),
        (ramp(dtype="i4") - 3, "from -3"),
        (ramp(dtype="i4") + 40000, "between 0 and 32767"),
        (np.full((3, 3, 3), np.nan, dtype="f4"), "NaN"),
    ],
)
def test_a_label_map_of_other_than_whole_codes_is_refused(
    tmp_path: Path, array: np.ndarray[Any, Any], words: str
) -> None:
    path = put(tmp_path / "a-seg.nii.gz", nifti_bytes(array))
    with pytest.raises(DataError, match=words):
        read_label(path)


def test_label_types(tmp_path: Path) -> None:
    small = put(tmp_path / "a.nii.gz", nifti_bytes(np.minimum(ramp(dtype="f4"), 4)))
    large = put(tmp_path / "b.nii.gz", nifti_bytes(ramp(dtype="i4") + 300))
    assert read_label(small).array.dtype == np.uint8
    assert read_label(large).array.dtype == np.int16


def test_writing_like_a_scan_copies_its_geometry_and_no_text(tmp_path: Path) -> None:
    scan = put(
        tmp_path / "scan.nii.gz",
        nifti_bytes(ramp(), descrip=b"patient Doe", srow_x=[-0.9999999, 1e-7, 0, 9.123456], qform_code=3),
    )
    seg = np.ones((4, 5, 6), dtype=np.uint8)
    write_volume(tmp_path / "seg.nii.gz", Volume(seg, read_volume(scan).affine), like=scan)
    ours, theirs = nib.load(tmp_path / "seg.nii.gz").header, nib.load(scan).header
    assert np.array_equal(ours.get_sform(), theirs.get_sform())
    assert (int(ours["qform_code"]), int(ours["sform_code"])) == (3, int(theirs["sform_code"]))
    assert ours.get_data_dtype() == np.uint8
    assert b"Doe" not in gzip.decompress((tmp_path / "seg.nii.gz").read_bytes())
    with pytest.raises(DataError, match="not that of scan"):
        write_volume(tmp_path / "b.nii.gz", Volume(seg[1:], AFFINE), like=scan)


def test_writing_is_atomic_and_repeatable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.nii.gz"
    write_volume(path, Volume(ramp(), AFFINE))
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="No space left"):
        write_volume(path, Volume(ramp() + 1, AFFINE))
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    write_volume(path, Volume(ramp(), AFFINE))
    assert path.read_bytes() == before


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="type bool"):
        write_volume(tmp_path / "a.nii", Volume(np.ones((2, 2, 2), dtype=bool), AFFINE))
    with pytest.raises(DataError, match=r"\.nii or \.nii\.gz"):
        write_volume(tmp_path / "a.mha", Volume(ramp(), AFFINE))


def test_same_grid() -> None:
    grid = Volume(ramp(), AFFINE)
    near, far = AFFINE.copy(), AFFINE.copy()
    near[0, 3] += 0.05
    far[0, 3] += 0.2
    assert same_grid(grid, Volume(ramp(), near))
    assert not same_grid(grid, Volume(ramp(), far))
    assert not same_grid(grid, Volume(ramp((4, 5, 7)), AFFINE))


@pytest.mark.parametrize("order", ["RAS", "LPS", "PIR", "ASL", "SRA"])
def test_orientation_agrees_with_nibabel(order: str) -> None:
    to = nib.orientations.axcodes2ornt(tuple(order))
    ras = nib.Nifti1Image(ramp((4, 5, 6)), np.diag([1.0, 2, 3, 1]))
    turned = ras.as_reoriented(nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), to))
    axes, flips = orientation(turned.affine)
    back = np.asarray(turned.dataobj).transpose(axes)
    back = np.flip(back, tuple(axis for axis in range(3) if flips[axis]))
    assert np.array_equal(back, np.asarray(ras.dataobj))


def test_header_notes(tmp_path: Path) -> None:
    bare = put(tmp_path / "a.nii", nifti_bytes(ramp(), sform_code=0, qform_code=0))
    apart = put(tmp_path / "b.nii", nifti_bytes(ramp(), qform_code=1, qoffset_x=50.0))
    assert any("no orientation" in note for note in inspect_header(bare).notes)
    assert any("disagree" in note for note in inspect_header(apart).notes)


def test_every_odd_file_is_read_or_refused_in_words(shared_data: Path) -> None:
    """Read: either byte order, a trailing axis of 1, a rotated grid, a constant, well-formed labels."""
    read = {
        "bigendian.nii.gz",
        "constant.nii.gz",
        "four_d_single.nii.gz",
        "standard.nii.gz",
        "seg_unknown_label.nii.gz",
        "seg_wrong_shape.nii.gz",
        "hippocampus_010-seg.nii.gz",
        "hippocampus_011-img.nii.gz",
    }
    files = [path for path in sorted((shared_data / "odd_nifti").rglob("*")) if path.is_file()]
    assert len(files) >= 27
    tracemalloc.start()
    refused = {path.name: message for path in files if (message := _refusal(path))}
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6
    assert {path.name for path in files} - set(refused) == read
    assert all(message.startswith(f"{name}: ") for name, message in refused.items())


def _refusal(path: Path) -> str | None:
    try:
        read_label(path) if "seg" in path.name else read_volume(path)
    except DataError as error:
        return str(error)
    return None


def test_two_readers_at_once(tmp_path: Path) -> None:
    path = put(tmp_path / "a.nii.gz", nifti_bytes(ramp((30, 30, 30))))
    found: list[bool] = []
    threads = [
        threading.Thread(
            target=lambda: found.append(np.array_equal(read_volume(path).array, ramp((30, 30, 30))))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 4
