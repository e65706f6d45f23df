"""MRC files against mrcfile, and against headers that mrcfile refuses."""

import bz2
import gzip
import pickle
import struct

import mrcfile
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cryomorph.config.errors import InputError
from cryomorph.io.cube import read_cube
from cryomorph.io.mrc import MrcStack, StackWriter, read_map, write_map
from fixtures.stacks import write_stack

MODES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}


def raw_mrc(path, data, *, order="<", stamp=True, extended=b"", count=None, cell=None, axes=(1, 2, 3)):
    """An MRC file written field by field, as the format's specification has them."""
    mode = {code: mode for mode, code in MODES.items()}[data.dtype.str[1:]]
    nz, ny, nx = data.shape
    header = bytearray(1024)
    struct.pack_into(f"{order}10i", header, 0, nx, ny, count or nz, mode, 0, 0, 0, nx, ny, nz)
    struct.pack_into(f"{order}3f", header, 40, *(cell or (0.0, 0.0, 0.0)))
    struct.pack_into(f"{order}3i", header, 64, *axes)
    struct.pack_into(f"{order}i", header, 92, len(extended))
    if stamp:
        header[208:216] = b"MAP " + (b"\x44\x44\x00\x00" if order == "<" else b"\x11\x11\x00\x00")
    path.write_bytes(bytes(header) + extended + data.astype(data.dtype.newbyteorder(order)).tobytes())
    return path


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    layout=st.fixed_dictionaries(
        {
            "order": st.sampled_from("<>"),
            "stamp": st.booleans(),
            "extended": st.sampled_from([b"", b"x" * 80, b"x" * 1024]),
        }
    ),
    mode=st.sampled_from(sorted(MODES)),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 6)),
    data=st.data(),
)
def test_any_mode_order_stamp_and_extended_header(tmp_path, layout, mode, shape, data):
    count, box = shape[0], 2 * shape[1]
    values = np.random.default_rng(count).integers(0, 100, (count, box, box)).astype(MODES[mode])
    path = raw_mrc(tmp_path / "s.mrcs", values, **layout)
    stack = MrcStack.open(path)
    assert (stack.count, stack.box, stack.pixel_A) == (count, box, 0.0)
    index = np.array(data.draw(st.lists(st.integers(0, count - 1), max_size=12)), dtype=np.int64)
    np.testing.assert_array_equal(stack.read(index), values[index].astype(np.float32))


@pytest.mark.parametrize("dtype", ["i1", "i2", "u2", "f2", "f4"])
def test_reads_what_mrcfile_writes(tmp_path, dtype):
    values = np.random.default_rng(0).integers(0, 50, (5, 8, 8)).astype(dtype)
    with mrcfile.new(tmp_path / "s.mrcs") as mrc:
        mrc.set_data(values)
        mrc.set_image_stack()
        mrc.voxel_size = 1.05
    stack = MrcStack.open(tmp_path / "s.mrcs")
    assert stack.pixel_A == 1.05
    np.testing.assert_array_equal(stack.read(np.array([4, 0, 1, 1])), values[[4, 0, 1, 1]].astype(np.float32))


def test_a_single_image_is_a_stack_of_one(tmp_path):
    image = np.arange(16, dtype=np.float32).reshape(4, 4)
    with mrcfile.new(tmp_path / "one.mrc") as mrc:
        mrc.set_data(image)
    stack = MrcStack.open(tmp_path / "one.mrc")
    assert stack.count == 1
    np.testing.assert_array_equal(stack.read(np.array([0]))[0], image)


def test_a_stack_pickles_and_holds_no_file(tmp_path):
    write_stack(tmp_path / "s.mrcs", np.ones((2, 4, 4), np.float32), 1.0)
    stack = pickle.loads(pickle.dumps(MrcStack.open(tmp_path / "s.mrcs")))
    assert stack.read(np.array([1])).sum() == 16


def test_an_index_beyond_the_stack(tmp_path):
    write_stack(tmp_path / "s.mrcs", np.ones((2, 4, 4), np.float32), 1.0)
    for wrong in (2, -1):
        with pytest.raises(InputError, match=rf"s.mrcs has 2 images; image {wrong} \(0-based\)"):
            MrcStack.open(tmp_path / "s.mrcs").read(np.array([0, wrong]))


def test_header_claims_more_than_the_file_stores(tmp_path):
    path = raw_mrc(tmp_path / "cut.mrcs", np.zeros((3, 4, 4), np.float32), count=7)
    with pytest.raises(InputError, match=r"cut.mrcs claims 7 sections .* stores 3 whole ones"):
        MrcStack.open(path)
    path.write_bytes(path.read_bytes()[: 1024 + 100])
    with pytest.raises(InputError, match="stores 1 whole"):
        MrcStack.open(path)


@pytest.mark.parametrize(("shape", "what"), [((1, 4, 6), "6 x 4 pixels"), ((2, 5, 5), "odd box of 5")])
def test_unusable_boxes_name_the_command(tmp_path, shape, what):
    path = raw_mrc(tmp_path / "b.mrcs", np.zeros(shape, np.float32))
    with pytest.raises(InputError, match=rf"{what}.*relion_image_handler --i .*b.mrcs .* --new_box 6"):
        MrcStack.open(path)


def test_files_that_are_no_mrc(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        MrcStack.open(tmp_path / "none.mrcs")
    (tmp_path / "short.mrcs").write_bytes(b"abc")
    with pytest.raises(InputError, match="holds 3 bytes"):
        MrcStack.open(tmp_path / "short.mrcs")
    (tmp_path / "text.mrcs").write_bytes(b"not an mrc file " * 100)
    with pytest.raises(InputError, match="mode"):
        MrcStack.open(tmp_path / "text.mrcs")
    with mrcfile.new(tmp_path / "complex.mrc") as mrc:
        mrc.set_data(np.zeros((2, 4, 4), np.complex64))
    with pytest.raises(InputError, match="mode 4"):
        read_map(tmp_path / "complex.mrc")


def test_map_round_trip_is_seen_by_mrcfile(tmp_path):
    volume = np.random.default_rng(0).normal(size=(4, 6, 8)).astype(np.float32)
    write_map(tmp_path / "m.mrc", volume, 1.37)
    assert mrcfile.validate(tmp_path / "m.mrc")
    with mrcfile.open(tmp_path / "m.mrc") as mrc:
        assert mrc.is_volume()
        np.testing.assert_allclose(mrc.voxel_size.tolist(), 1.37, rtol=1e-6)
        np.testing.assert_array_equal(mrc.data, volume)
    back, pixel_A = read_map(tmp_path / "m.mrc")
    assert pixel_A == 1.37
    np.testing.assert_array_equal(back, volume)


@pytest.mark.parametrize("pack", [gzip, bz2])
def test_compressed_maps_are_unpacked_and_stacks_name_the_command(tmp_path, pack):
    volume = np.random.default_rng(0).normal(size=(4, 4, 4)).astype(np.float32)
    write_map(tmp_path / "m.mrc", volume, 1.5)
    path = tmp_path / "my map.mrc.packed"
    path.write_bytes(pack.compress((tmp_path / "m.mrc").read_bytes()))
    found, pixel_A = read_map(path)
    np.testing.assert_array_equal(found, volume)
    assert pixel_A == 1.5
    with pytest.raises(InputError, match=r"-compressed.*`(gunzip|bunzip2) -k '.*my map.mrc.packed'`"):
        MrcStack.open(path)
    path.write_bytes(pack.compress((tmp_path / "m.mrc").read_bytes()[:-8]))
    with pytest.raises(InputError, match="claims 256 bytes of data in its header but stores 248"):
        read_map(path)
    path.write_bytes(pack.compress((tmp_path / "m.mrc").read_bytes())[:-20])
    with pytest.raises(InputError, match="cannot be unpacked"):
        read_map(path)


@pytest.mark.parametrize(
    ("start", "what"), [(b"\x89HDF\r\n", "an HDF5 file"), (b"II*\0", "a TIFF file"), (b"PK\x03\x04", "a zip archive")]
)
def test_files_of_other_formats_are_named(tmp_path, start, what):
    (tmp_path / "x.mrc").write_bytes(start + b"\xff" * 2000)
    with pytest.raises(InputError, match=f"x.mrc is {what}: convert"):
        read_map(tmp_path / "x.mrc")
    spider = np.zeros(256, ">f4")
    spider[[0, 1, 4, 11, 12, 21, 22]] = [1, 8, 1, 8, 32, 32 * 32, 32]
    (tmp_path / "x.spi").write_bytes(spider.tobytes() + bytes(256))
    with pytest.raises(InputError, match="a SPIDER file"):
        read_map(tmp_path / "x.spi")


def test_bytes_are_signed_unless_the_file_says_otherwise(tmp_path):
    values = np.arange(64, dtype=np.uint8).reshape(4, 4, 4) * 4  # 0 to 252

    def stored(**changed):
        path = raw_mrc(tmp_path / "b.mrcs", values.view(np.int8))
        content = bytearray(path.read_bytes())
        for at, kind, number in changed.values():
            struct.pack_into(kind, content, at, number)
        path.write_bytes(content)
        return MrcStack.open(path).read(np.arange(4))

    as_signed, as_unsigned = values.view(np.int8).astype(np.float32), values.astype(np.float32)
    stamp = (152, "<i", 1146047817)
    np.testing.assert_array_equal(stored(), as_signed)
    np.testing.assert_array_equal(stored(low=(76, "<f", 0.0), high=(80, "<f", 252.0)), as_unsigned)
    np.testing.assert_array_equal(stored(low=(76, "<f", -128.0), high=(80, "<f", 124.0)), as_signed)
    np.testing.assert_array_equal(stored(stamp=stamp), as_unsigned)
    np.testing.assert_array_equal(stored(stamp=stamp, flags=(156, "<i", 1), high=(80, "<f", 252.0)), as_signed)


def test_the_origin_of_a_map(tmp_path):
    volume = np.zeros((4, 4, 4), np.float32)
    write_map(tmp_path / "m.mrc", volume, 1.5, origin_A=(-3.0, 4.5, 60.0))
    with mrcfile.open(tmp_path / "m.mrc") as mrc:
        assert mrc.header.origin.tolist() == (-3, 4.5, 60)
    assert read_cube(tmp_path / "m.mrc").origin_A == (-3, 4.5, 60)
    with mrcfile.open(tmp_path / "m.mrc", "r+") as mrc:  # the older convention: start of columns, rows, sections
        mrc.header.origin = (0, 0, 0)
        mrc.header.mapc, mrc.header.mapr, mrc.header.maps = 3, 1, 2
        mrc.header.nxstart, mrc.header.nystart, mrc.header.nzstart = 7, 8, -2
    assert read_cube(tmp_path / "m.mrc").origin_A == (12, -3, 10.5)


def test_a_map_without_pixel_size(tmp_path):
    volume, pixel_A = read_map(raw_mrc(tmp_path / "m.mrc", np.ones((4, 4, 4), np.int16)))
    assert pixel_A == 0.0 and volume.dtype == np.float32


@pytest.mark.parametrize("axes", [(1, 2, 3), (3, 2, 1), (2, 3, 1), (3, 1, 2)])
def test_axis_order_is_followed(tmp_path, axes):
    volume = np.arange(2 * 4 * 6, dtype=np.float32).reshape(2, 4, 6)  # [z, y, x]
    # `axes` says which of x, y, z (1, 2, 3) the columns, rows and sections are
    stored = volume.transpose([3 - axes[2], 3 - axes[1], 3 - axes[0]])
    path = raw_mrc(tmp_path / "m.mrc", np.ascontiguousarray(stored), axes=axes, cell=(6.0, 4.0, 2.0))
    np.testing.assert_array_equal(read_map(path)[0], volume)


def test_streamed_stack_is_one_that_mrcfile_validates(tmp_path):
    images = np.random.default_rng(0).normal(3, 2, size=(7, 8, 8)).astype(np.float32)
    with StackWriter(tmp_path / "s.mrcs", 8, 2.5) as writer:
        writer.append(images[:3])
        writer.append(images[3:3])
        writer.append(images[3:])
        assert not (tmp_path / "s.mrcs").exists()
    assert mrcfile.validate(tmp_path / "s.mrcs")
    with mrcfile.open(tmp_path / "s.mrcs") as mrc:
        assert mrc.is_image_stack()
        assert mrc.voxel_size.x == 2.5
        np.testing.assert_array_equal(mrc.data, images)
        np.testing.assert_allclose(
            [mrc.header.dmin, mrc.header.dmax, mrc.header.dmean, mrc.header.rms],
            [images.min(), images.max(), images.mean(), images.std()],
            rtol=1e-5,
        )


def test_a_stack_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="stack of box 8"), StackWriter(tmp_path / "s.mrcs", 8, 1.0) as writer:
        writer.append(np.zeros((1, 4, 4), np.float32))
    with pytest.raises(ValueError, match="no image"), StackWriter(tmp_path / "s.mrcs", 8, 1.0):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.accept
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # mrcfile on files without a machine stamp
def test_real_headers(shared):
    readers = shared / "data" / "readers"
    toy = MrcStack.open(readers / "toy_projections.mrcs")  # no machine stamp
    assert (toy.count, toy.box) == (1000, 30)
    real = MrcStack.open(readers / "empiar_10076_7.mrc")
    with mrcfile.open(readers / "empiar_10076_7.mrc") as mrc:
        np.testing.assert_array_equal(real.read(np.array([6, 2])), mrc.data[[6, 2]])
    with mrcfile.open(readers / "relion31.mrcs", permissive=True) as mrc:
        np.testing.assert_array_equal(MrcStack.open(readers / "relion31.mrcs").read(np.arange(5)), mrc.data)
    assert read_map(readers / "toymodel_small_nocenter.mrc")[0].shape == (30, 30, 30)
