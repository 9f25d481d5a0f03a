"""Reading and writing by block."""

import mmap
import re
from pathlib import Path

import dask.array as da
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import zarr
from numpy.testing import assert_array_equal

from sklearn_samn._blocks import Blocks, can_be_read, check_out, is_lazy, write


@pytest.fixture
def rows():
    return np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)


def all_rows(blocks):
    return np.concatenate([block for _, block in blocks])


def npy_parts(folder, *parts):
    paths = [folder / f"part{i}.npy" for i in range(len(parts))]
    for path, part in zip(paths, parts, strict=True):
        np.save(path, part)
    return paths


def parquet_part(path, rows, names="abcd", **params):
    pd.DataFrame(rows, columns=list(names)).to_parquet(path, **params)
    return path


def sources(folder, rows):
    """The rows in every container; chunks of 10 rows, parts of 20 and 40."""
    np.save(folder / "x.npy", rows)
    file = h5py.File(folder / "x.h5", "w")
    parts = [rows[:20], rows[20:]]
    parquet = [folder / "a.parquet", folder / "b.parquet"]
    for path, part in zip(parquet, parts, strict=True):
        parquet_part(path, part, row_group_size=10)
    array = zarr.open(
        folder / "x.zarr", mode="w", shape=rows.shape, chunks=(10, 4), dtype=rows.dtype
    )
    array[:] = rows
    return {
        "memmap": np.load(folder / "x.npy", mmap_mode="r"),
        "h5py": file.create_dataset("x", data=rows, chunks=(10, 4)),
        "contiguous": file.create_dataset("y", data=rows),
        "zarr": array,
        "dask": da.from_array(rows, chunks=(10, 4)),
        "npy": npy_parts(folder, *parts),
        "parquet": [str(path) for path in parquet],
    }


# -------------------------------------------------------------------------- reading


@pytest.mark.parametrize("n_bytes", [1, 160, 500, 10**6])
def test_every_source_gives_its_rows(tmp_path, rows, n_bytes):
    for name, source in sources(tmp_path, rows).items():
        blocks = Blocks(source, n_bytes)
        assert blocks.shape == (60, 4)
        assert_array_equal(all_rows(blocks), rows, err_msg=name)
        assert blocks.starts == [start for start, _ in blocks]
        assert all(rows.flags.c_contiguous for _, rows in blocks)


def test_blocks_lie_within_parts_and_hold_whole_chunks(tmp_path, rows):
    expected = {
        "memmap": [15] * 4,
        "contiguous": [15] * 4,
        "h5py": [20] * 3,
        "zarr": [20] * 3,
        "dask": [20] * 3,
        "npy": [15, 5, 15, 15, 10],
        "parquet": [20, 20, 20],
    }
    for name, source in sources(tmp_path, rows).items():
        blocks = Blocks(source, n_bytes=15 * 4 * 4)
        assert [len(block) for _, block in blocks] == expected[name], name


def test_parquet_groups_of_unequal_size(tmp_path, rows):
    whole = parquet_part(tmp_path / "a.parquet", rows[:25], row_group_size=10)
    blocks = Blocks([whole, npy_parts(tmp_path, rows[25:])[0]][:1], n_bytes=1)
    assert_array_equal(all_rows(blocks), rows[:25])
    assert [len(block) for _, block in blocks] == [10, 10, 5]


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("f4", "f4"),
        ("f8", "f8"),
        ("i4", "f8"),
        ("u1", "f8"),
        ("?", "f8"),
        (">f4", "f4"),
    ],
)
def test_blocks_are_floats(rows, dtype, expected):
    rows = (10 * rows).astype(dtype)
    blocks = Blocks(rows, n_bytes=100)
    assert blocks.dtype == blocks.read(0).dtype == np.dtype(expected)
    assert_array_equal(all_rows(blocks), rows)


def test_parts_of_two_dtypes_are_of_the_wider(tmp_path, rows):
    blocks = Blocks(npy_parts(tmp_path, rows, rows.astype(float)), n_bytes=100)
    assert blocks.dtype == blocks.read(0).dtype == np.float64


def test_how_many_blocks_make_a_buffer(rows):
    blocks = Blocks(rows, n_bytes=10 * 16)
    assert len(blocks) == 6
    assert [blocks.count_blocks_in(n, 0) for n in (1, 160, 479, 480, 960)] == [
        1,
        1,
        2,
        3,
        6,
    ]
    assert [blocks.count_blocks_in(480, n) for n in (4, 32, 1000)] == [2, 1, 1]
    assert blocks.count_rows_in(165) == 10
    assert blocks.count_rows_in(165, n_beside=17) == 5
    assert len(Blocks(rows, n_bytes=10 * 16, n_beside=16)) == 12


def test_rows_gathered_in_one_pass(tmp_path, rows):
    blocks = Blocks(npy_parts(tmp_path, rows[:20], rows[20:]), n_bytes=100)
    wanted = [np.array([0, 5, 19, 20, 59]), np.arange(0), np.arange(60)]
    for indices, found in zip(wanted, blocks.gather(*wanted), strict=True):
        assert_array_equal(found, rows[indices])


def test_the_pages_of_a_memmap_are_given_back(tmp_path):
    rows = np.ones((20_000, 100), dtype=np.float32)
    np.save(tmp_path / "x.npy", rows)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")

    def resident():
        smaps = Path("/proc/self/smaps").read_text().split("x.npy")
        return sum(int(re.search(r"Rss:\s+(\d+)", part)[1]) for part in smaps[1:])

    for _ in Blocks(mapped, 2**16):
        assert resident() < 500
    mapped.sum()
    assert resident() > 7000


def test_changes_of_a_copy_on_write_mapping_stay(tmp_path, rows):
    np.save(tmp_path / "x.npy", rows)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="c")
    mapped[:] += 1
    assert_array_equal(all_rows(Blocks(mapped, 100)), rows + 1)
    assert_array_equal(mapped, rows + 1)


def test_what_is_read_by_block(tmp_path, rows):
    for name, source in sources(tmp_path, rows).items():
        assert is_lazy(source) == (name != "memmap")
        assert can_be_read(source)
    assert can_be_read(rows) and not is_lazy(rows)
    frame = pd.DataFrame({"dtype": [1], "chunks": [1], "ndim": [2]})
    for other in (frame, [], [[1.0]], rows.tolist(), torch.ones(2, 2), None):
        assert not is_lazy(other) and not can_be_read(other)
    for other in ("x.npy", tmp_path, tmp_path.glob("*.npy")):
        with pytest.raises(ValueError, match=r"X is a \w+; .* pass a list of their"):
            is_lazy(other)
    with h5py.File(tmp_path / "closed.h5", "w") as file:
        closed = file.create_dataset("x", data=rows)
    with pytest.raises(ValueError, match=r"Dataset cannot be read: .*its file closed"):
        is_lazy(closed)


# --------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("value", "what"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")]
)
def test_the_part_the_row_and_the_column_of_a_bad_number(tmp_path, rows, value, what):
    rows[47, 2] = value
    sites = {"npy": 27, "parquet": 27}
    for name, source in sources(tmp_path, rows).items():
        part = r"part '.*(part1\.npy|b\.parquet)'" if name in sites else "X"
        match = rf"Row {sites.get(name, 47)} of {part} contains {what} in column 2\."
        with pytest.raises(ValueError, match=match):
            all_rows(Blocks(source, n_bytes=100))


@pytest.mark.parametrize("suffix", ["npy", "parquet"])
def test_a_truncated_part(tmp_path, rows, suffix):
    paths = sources(tmp_path, rows)[suffix]
    content = Path(paths[1]).read_bytes()
    Path(paths[1]).write_bytes(content[:-100])
    match = rf"Part '{re.escape(str(paths[1]))}' of X cannot be opened: .*truncated\?"
    with pytest.raises(ValueError, match=match):
        Blocks(paths, 100)


def test_a_part_that_becomes_shorter_while_it_is_read(tmp_path, rows):
    paths = npy_parts(tmp_path, rows[:20], rows[20:])
    blocks = Blocks(paths, n_bytes=160)
    np.save(paths[1], rows[20:45])
    match = r"Rows 20 to 29 of part '.*part1\.npy' came with the shape \(5, 4\)"
    with pytest.raises(ValueError, match=match):
        all_rows(blocks)
    paths[1].unlink()
    with pytest.raises(ValueError, match=r"Rows 0 to 9 of part '.*' cannot be read"):
        all_rows(blocks)


def test_parts_of_other_columns(tmp_path, rows):
    paths = npy_parts(tmp_path, rows, rows[:, :3])
    match = r"part '.*part1\.npy' has 3 columns, but part '.*part0\.npy' has 4\."
    with pytest.raises(ValueError, match=match):
        Blocks(paths, 100)
    a = parquet_part(tmp_path / "a.parquet", rows)
    b = parquet_part(tmp_path / "b.parquet", rows, names="abdc")
    with pytest.raises(
        ValueError, match=r"b\.parquet' has the columns \['a', 'b', 'd'"
    ):
        Blocks([a, b], 100)


def test_what_is_no_table_of_numbers(tmp_path, rows):
    with pytest.raises(
        ValueError, match=r"Expected 2D array, got 1D .* X has the shape"
    ):
        Blocks(da.ones(5), 100)
    with pytest.raises(ValueError, match=r"X has the dtype <U1; .* must be numbers"):
        Blocks(np.array([["a"]]), 100)
    with pytest.raises(ValueError, match=r"Found array of shape \(0, 4\)"):
        Blocks(rows[:0], 100)
    with pytest.raises(ValueError, match=r"'a\.csv' of X is neither a \.npy nor"):
        Blocks(["a.csv"], 100)
    with pytest.raises(FileNotFoundError, match=r"'a\.npy'"):
        Blocks(["a.npy"], 100)
    unknown = da.from_array(rows)
    unknown = unknown[unknown[:, 0] > 0]
    with pytest.raises(
        ValueError, match=r"rows of X is unknown; .*compute_chunk_sizes"
    ):
        Blocks(unknown, 100)
    unknown = da.from_array(rows)
    unknown = unknown[:, unknown[0] > 0]
    with pytest.raises(ValueError, match=r"number of columns of X is unknown"):
        Blocks(unknown, 100)
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(ValueError, match=r"folder\.parquet' of X is a folder; list"):
        Blocks([tmp_path / "folder.parquet"], 100)
    twice = pa.table([pa.array([1.0]), pa.array([2.0])], names=["a", "a"])
    pq.write_table(twice, tmp_path / "twice.parquet")
    with pytest.raises(ValueError, match=r"two of the columns \['a', 'a'\] have one"):
        Blocks([tmp_path / "twice.parquet"], 100)
    parquet_part(tmp_path / "s.parquet", [["x"] * 4])
    with pytest.raises(ValueError, match=r"Column 'a' of part .*s\.parquet' has the"):
        Blocks([tmp_path / "s.parquet"], 100)


@pytest.mark.parametrize("values", [["x"] * 5, pd.date_range("2024", periods=5)])
def test_a_parquet_column_of_no_numbers(tmp_path, rows, values):
    frame = pd.DataFrame(rows[:5], columns=list("abcd"))
    frame.assign(c=pd.Categorical(values)).to_parquet(tmp_path / "c.parquet")
    frame.assign(c=values).to_parquet(tmp_path / "d.parquet")
    for name in ("c", "d"):
        with pytest.raises(ValueError, match=r"Column 'c' of part .* must be numbers"):
            Blocks([tmp_path / f"{name}.parquet"], 100)


def test_a_parquet_file_with_the_index_of_a_frame(tmp_path, rows):
    frame = pd.DataFrame(rows, columns=list("abcd")).sample(frac=1, random_state=0)
    frame.to_parquet(tmp_path / "a.parquet")
    blocks = Blocks([tmp_path / "a.parquet"], 200)
    assert blocks.columns == list("abcd")
    assert_array_equal(all_rows(blocks), frame)


def test_an_empty_parquet_part(tmp_path, rows):
    parts = [tmp_path / f"{name}.parquet" for name in "abc"]
    for path, part in zip(parts, [rows[:0], rows, rows[:0]], strict=True):
        parquet_part(path, part)
    assert_array_equal(all_rows(Blocks(parts, 200)), rows)


# -------------------------------------------------------------------------- writing


def test_an_array_that_cannot_hold_the_results():
    X, labels = np.zeros((3, 2)), np.array(["no", "maybe"])
    check_out(np.empty(3, "U5"), (3,), labels, X)
    check_out(np.empty(3, object), (3,), labels, X)
    check_out(np.empty(3, np.int8), (3,), np.array([0, 1]), X)
    with pytest.raises(ValueError, match=r"out has the shape \(4,\), but needs \(3,\)"):
        check_out(np.empty(4, "U5"), (3,), labels, X)
    for dtype in ("U4", "i8", "f8"):
        with pytest.raises(ValueError, match=r"the dtype \S+, which cannot hold"):
            check_out(np.empty(3, dtype), (3,), labels, X)
    with pytest.raises(ValueError, match="the dtype int8, which cannot hold"):
        check_out(np.empty(3, np.int8), (3,), np.array([0, 200]), X)


def test_an_array_that_cannot_be_written(tmp_path):
    values = np.array([0.5])
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", data=np.zeros(3))
    zarr.open(tmp_path / "x.zarr", mode="w", shape=(3,), dtype="f8")[:] = 0
    with h5py.File(tmp_path / "x.h5", "r") as file:
        closed = np.zeros(3)
        closed.flags.writeable = False
        for out in (closed, file["x"], zarr.open(tmp_path / "x.zarr", mode="r")):
            with pytest.raises(ValueError, match="out is read-only"):
                check_out(out, (3,), values, None)
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        for out in (file["x"], zarr.open(tmp_path / "x.zarr", mode="r+")):
            check_out(out, (3,), values, None)


def test_an_array_in_the_memory_of_the_rows():
    whole, values = np.zeros((8, 2)), np.array([0.5])
    with pytest.raises(ValueError, match="out lies in the memory of X"):
        check_out(whole[1:], (7, 2), values, whole[:4])
    # Read before they are written.
    check_out(whole, (8, 2), values, whole[:4])
    check_out(whole[:4], (4, 2), values, whole[4:])
    # Rows of out twice as long as those of X.
    with pytest.raises(ValueError, match="out lies in the memory of X"):
        check_out(whole, (8, 2), values, whole.view(np.float32).reshape(16, 2)[:8])
    # Other columns of one table.
    check_out(whole[:, 1:], (8, 1), values, whole[:, :1])
    # Rows of out that lie across those of X.
    with pytest.raises(ValueError, match="out lies in the memory of X"):
        across = whole.ravel().reshape((8, 2), order="F")
        check_out(across, (8, 2), values, whole)
    check_out(whole[:0], (0, 2), values, whole[:0])
    # Each in its own place, whatever the order.
    by_column = np.zeros((8, 2), order="F")
    check_out(by_column[:, :1], (8, 1), values, by_column)
    check_out(whole[::-1, :1], (8, 1), values, whole[::-1])


@pytest.mark.parametrize(
    ("part", "start", "n_bytes"),
    [
        (np.s_[900:], 900 * 16, 1600),
        (np.s_[:100, 1], 8, 99 * 16 + 8),
        (np.s_[99::-1], 0, 1600),
    ],
    ids=["last rows", "a column", "backwards"],
)
def test_room_is_made_where_a_slice_of_a_mapped_file_is(
    part, start, n_bytes, tmp_path, monkeypatch
):
    """Not where the file begins: a full disk would kill the process."""
    claimed = []
    monkeypatch.setattr(
        "os.posix_fallocate", lambda file, *span: claimed.append(span), raising=False
    )
    path = tmp_path / "out.npy"
    whole = np.lib.format.open_memmap(path, "w+", dtype=float, shape=(1000, 2))
    out = whole[part]
    check_out(out, out.shape, np.array([0.5]), None)
    assert claimed == [(whole.offset + start, n_bytes)]


def test_an_out_whose_file_is_closed(tmp_path):
    with h5py.File(tmp_path / "out.h5", "w") as file:
        out = file.create_dataset("out", (4,), dtype=float)
    with pytest.raises(
        ValueError, match=r"out, a Dataset, cannot be .* Is its file cl"
    ):
        check_out(out, (4,), np.array([0.5]), None)


def test_a_mapped_file_that_has_another_name_by_now(tmp_path):
    values = np.array([1], np.int8)
    out = np.memmap(tmp_path / "a", "i1", "w+", shape=(400,))
    (tmp_path / "a").rename(tmp_path / "b")
    check_out(out, (400,), values, None)
    (tmp_path / "a").write_text("mine")
    check_out(out, (400,), values, None)
    assert (tmp_path / "a").read_text() == "mine"
    copied = np.memmap(tmp_path / "b", "i1", "c", shape=(400,))
    (tmp_path / "b").unlink()
    check_out(copied, (400,), values, None)


def test_a_write_that_fails_names_the_rows():
    class Full:
        dtype = np.dtype(float)

        def __setitem__(self, rows, values):
            raise OSError(28, "No space left on device")

    match = r"Rows 30 to 34 cannot be written into out: .*No space left.*before are"
    with pytest.raises(OSError, match=match):
        write(Full(), 30, np.zeros(5))


def test_parts_that_lie_column_by_column(tmp_path):
    rows = np.arange(24.0).reshape(8, 3)
    np.save(tmp_path / "a.npy", np.asfortranarray(rows[:5]))
    np.save(tmp_path / "b.npy", rows[5:])
    blocks = Blocks([tmp_path / "a.npy", tmp_path / "b.npy"], n_bytes=48)
    assert_array_equal(np.concatenate([part for _, part in blocks]), rows)


def test_results_whose_rows_are_further_apart_than_those_of_X_in_one_memory():
    memory = np.zeros(80)
    X, out = memory[:20].reshape(10, 2), memory.reshape(10, 8)[:, :2]
    with pytest.raises(ValueError, match="memory of X"):
        check_out(out, (10, 2), np.array([0.5]), X)


def test_room_is_claimed_from_the_offset_of_a_map_on(tmp_path, monkeypatch):
    claimed = []
    monkeypatch.setattr(
        "os.posix_fallocate", lambda file, *span: claimed.append(span), raising=False
    )
    offset = 2 * mmap.ALLOCATIONGRANULARITY + 16
    out = np.memmap(tmp_path / "out", float, "w+", offset, (100, 3))
    check_out(out[10:20], (10, 3), np.array([0.5]), None)
    assert claimed == [(offset + 10 * 24, 10 * 24)]
