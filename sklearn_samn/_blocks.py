"""Array-likes larger than memory, read and written by block."""

import errno
import mmap
import os

import numpy as np

# A block is read in one stroke, and is about so large as floats.
BLOCK_BYTES = 2**20
# Rows that are in memory at once to be shuffled or predicted.
BUFFER_BYTES = 2**26
# At most so many of the rows are kept: to scale by, as neighbours and as memories.
MAX_SAMPLE_ROWS = 100_000
# Kinds of dtypes that can be read.
NUMBERS = "fiub"
# What a disk, a quota or a file system says that is full.
NO_ROOM = errno.ENOSPC, errno.EDQUOT, errno.EFBIG


def is_lazy(X):
    """Whether the rows are elsewhere: an array of HDF5, zarr or dask, a list of parts.

    Raises
    ------
    ValueError
        If X is one path or an iterator, for which a list of paths may be meant, or an
        array whose file is closed.

    Examples
    --------
    >>> is_lazy(["a.npy", "b.npy"]), is_lazy([[1.0]]), is_lazy(np.zeros((1, 1)))
    (True, False, False)
    """
    if isinstance(X, (str, os.PathLike)) or hasattr(X, "__next__"):
        raise ValueError(
            f"X is a {type(X).__name__}; for rows in files pass a list of their paths."
        )
    if isinstance(X, (list, tuple)):
        return len(X) > 0 and all(isinstance(part, (str, os.PathLike)) for part in X)
    return _is_array(X) and hasattr(X, "chunks")


def can_be_read(X):
    """Whether the rows can be read by block: they are an array, wherever they are."""
    return is_lazy(X) or _is_array(X)


def _is_array(X):
    # Neither a frame nor a sparse matrix, whose slices are no arrays.
    if hasattr(X, "columns") or hasattr(X, "nnz"):
        return False
    try:
        # A tensor's dtype is none of NumPy's.
        numbers = isinstance(getattr(X, "dtype", None), np.dtype)
        return numbers and all(hasattr(X, n) for n in ("shape", "ndim", "__getitem__"))
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"The {type(X).__name__} cannot be read: {error}. Is its file closed?"
        ) from error


class Blocks:
    """Rows of a table, read block by block; an iterator of (first row, rows).

    A block lies within one part and consists of whole chunks, since those of a
    compressed file are decoded as a whole.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features) or list of path
        Anything with shape, dtype and ``X[start:stop]``, or the parts of a table, .npy
        or .parquet files.
    n_bytes : int
        About the size of a block.
    n_beside : int, default=0
        Bytes that a row needs beside its numbers while its block is in memory.

    Attributes
    ----------
    shape : tuple
        (n_samples, n_features).
    dtype : dtype
        Of the blocks: float32 for such rows, else float64.
    starts : list of int
        First row of each block.
    columns : list of str or None
        Names of the features, where the parts have them.

    Examples
    --------
    >>> blocks = Blocks(np.zeros((5, 2)), n_bytes=32)
    >>> [(start, rows.shape) for start, rows in blocks]
    [(0, (2, 2)), (2, (2, 2)), (4, (1, 2))]
    """

    def __init__(self, X, n_bytes, n_beside=0):
        self._parts = _open(X)
        self.columns = self._parts[0].columns
        n_features = self._parts[0].shape[1]
        dtype = np.result_type(*(part.dtype for part in self._parts))
        self.dtype = np.dtype(np.float32 if dtype == np.float32 else np.float64)
        lengths = [part.shape[0] for part in self._parts]
        self.shape = sum(lengths), n_features
        if not all(self.shape):
            raise ValueError(
                f"Found array of shape {self.shape}; a row and a feature are the least."
            )
        wanted = max(self.count_rows_in(n_bytes, n_beside), 1)
        self._spans, self.starts = [], []
        for number, part in enumerate(self._parts):
            step = -(-wanted // part.chunk_rows) * part.chunk_rows
            before = sum(lengths[:number])
            for start in range(0, lengths[number], step):
                stop = min(start + step, lengths[number])
                self._spans.append((part, start, stop))
                self.starts.append(before + start)

    def __len__(self):
        return len(self._spans)

    def __iter__(self):
        return ((self.starts[i], self.read(i)) for i in range(len(self)))

    def named(self, rows):
        """Rows as a DataFrame, where the columns have names."""
        if self.columns is None:
            return rows
        try:
            from pandas import DataFrame
        except ImportError as error:
            raise ImportError(
                "The names of the columns of Parquet need pandas: pip install "
                "'sklearn_samn[out-of-core]'."
            ) from error
        return DataFrame(rows, columns=self.columns)

    def count_blocks_in(self, n_bytes, n_beside):
        """How many blocks make about so many bytes, one at the least."""
        n_rows = self.count_rows_in(n_bytes, n_beside)
        return max(n_rows * len(self) // self.shape[0], 1)

    def count_rows_in(self, n_bytes, n_beside=0):
        """How many rows so many bytes hold, with so many beside the numbers of each."""
        return n_bytes // (self.shape[1] * self.dtype.itemsize + n_beside)

    def read(self, number):
        """Rows of one block as floats.

        Raises
        ------
        ValueError
            If the rows cannot be read or are not finite; names part, row and column.
        """
        part, start, stop = self._spans[number]
        try:
            rows = np.ascontiguousarray(part.read(start, stop), dtype=self.dtype)
        except Exception as error:
            raise ValueError(
                f"Rows {start} to {stop - 1} of {part.name} cannot be read: {error}"
            ) from error
        if rows.shape != (stop - start, self.shape[1]):
            raise ValueError(
                f"Rows {start} to {stop - 1} of {part.name} came with the shape "
                f"{rows.shape}; is the file truncated?"
            )
        _check_finite(rows, part.name, start)
        return rows

    def gather(self, *wanted):
        """An array of rows for each array of indices, ascending, in one pass over all.

        The pass reads, and so checks, every row.
        """
        taken = [np.empty((len(rows), self.shape[1]), self.dtype) for rows in wanted]
        for start, block in self:
            for indices, rows in zip(wanted, taken, strict=True):
                first, last = np.searchsorted(indices, [start, start + len(block)])
                rows[first:last] = block[indices[first:last] - start]
        return taken


def _check_finite(rows, name, start):
    refused = ~np.isfinite(rows)
    if not refused.any():
        return
    row, column = np.argwhere(refused)[0]
    what = "NaN" if np.isnan(rows[row, column]) else "infinity"
    raise ValueError(
        f"Row {start + row} of {name} contains {what} in column {column}. Rows that "
        f"are read by block must be finite: write them anew, imputed."
    )


# Parts: name, shape, dtype, dtypes, columns, chunk_rows, read(start, stop) -----------


def _open(X):
    if isinstance(X, (list, tuple)):
        parts = [_open_file(os.fspath(path)) for path in X]
    else:
        parts = [_ArrayPart(X)]
    for part in parts:
        _check_part(part, parts[0])
    return parts


def _open_file(path):
    opener = {".npy": _NpyPart, ".parquet": _ParquetPart}.get(os.path.splitext(path)[1])
    if opener is None:
        raise ValueError(f"Part {path!r} of X is neither a .npy nor a .parquet file.")
    if os.path.isdir(path):
        raise ValueError(f"Part {path!r} of X is a folder; list the files in it.")
    try:
        return opener(path)
    except (FileNotFoundError, ImportError):
        raise
    except Exception as error:
        raise ValueError(
            f"Part {path!r} of X cannot be opened: {error}. Is the file truncated?"
        ) from error


def _check_part(part, first):
    if len(part.shape) != 2:
        raise ValueError(
            f"Expected 2D array, got {len(part.shape)}D array instead: {part.name} has "
            f"the shape {part.shape}."
        )
    # NaN is what dask says where it does not know.
    unknown = np.isnan(np.array(part.shape, dtype=float))
    if unknown.any():
        what = "rows" if unknown[0] else "columns"
        raise ValueError(
            f"The number of {what} of {part.name} is unknown; find it with dask's "
            f"compute_chunk_sizes()."
        )
    for column, dtype in part.dtypes.items():
        if dtype.kind not in NUMBERS:
            where = part.name if column is None else f"Column {column!r} of {part.name}"
            raise ValueError(
                f"{where} has the dtype {dtype}; rows that are read by block must be "
                f"numbers."
            )
    if part.shape[1] != first.shape[1]:
        raise ValueError(
            f"{part.name} has {part.shape[1]} columns, but {first.name} has "
            f"{first.shape[1]}."
        )
    if part.columns != first.columns:
        raise ValueError(
            f"{part.name} has the columns {part.columns}, but {first.name} has "
            f"{first.columns}."
        )


class _ArrayPart:
    """The whole table as one part."""

    name = "X"
    columns = None

    def __init__(self, X):
        self._X = X
        self.shape, self.dtype = X.shape, np.dtype(X.dtype)
        self.dtypes = {None: self.dtype}
        # HDF5 and zarr: rows of a chunk. dask: the rows of each.
        chunks = getattr(X, "chunks", None) or (1,)
        self.chunk_rows = max(np.ravel(chunks[0]).tolist(), default=1) or 1

    def read(self, start, stop):
        rows = self._X[start:stop]
        # dask's is a plan so far.
        rows = np.array(rows.compute() if hasattr(rows, "compute") else rows)
        _forget_pages(self._X)
        return rows


def _forget_pages(array):
    """Give back the pages of a mapped file, which count as the process's memory.

    They stay in the system's cache, written ones until they are on the disk. Changes
    of a copy-on-write mapping would be lost.
    """
    mapping = getattr(array, "_mmap", None)
    if mapping is not None and array.mode != "c" and hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED)


class _NpyPart:
    columns = None
    chunk_rows = 1

    def __init__(self, path):
        # The rows are read later, and the working directory may be another by then.
        self._path, self.name = os.path.abspath(path), f"part {path!r}"
        array = np.load(path, mmap_mode="r")
        self.shape, self.dtype = array.shape, array.dtype
        self.dtypes = {None: self.dtype}
        self._offset = array.offset if array.flags.c_contiguous else None

    def read(self, start, stop):
        if self._offset is None:
            # Mapped for this block alone: touched pages count as the process's memory.
            return np.array(np.load(self._path, mmap_mode="r")[start:stop])
        width = self.shape[1]
        first = self._offset + start * width * self.dtype.itemsize
        count = (stop - start) * width
        return np.fromfile(self._path, self.dtype, count, offset=first).reshape(
            -1, width
        )


class _ParquetPart:
    def __init__(self, path):
        self._path, self.name = os.path.abspath(path), f"part {path!r}"
        with _parquet(path) as file:
            schema = file.schema_arrow
            # A DataFrame's index is among the columns of the file.
            index = (schema.pandas_metadata or {}).get("index_columns", [])
            self.columns = [name for name in schema.names if name not in index]
            if len(set(self.columns)) < len(self.columns):
                raise ValueError(f"two of the columns {self.columns} have one name")
            types = [schema.field(name).type for name in self.columns]
            self.dtypes = dict(zip(self.columns, map(_numpy_dtype, types), strict=True))
            numbers = [dtype for dtype in self.dtypes.values() if dtype.kind in NUMBERS]
            self.dtype = np.result_type(bool, *numbers)
            groups = range(file.metadata.num_row_groups)
            sizes = [file.metadata.row_group(group).num_rows for group in groups]
        self.shape = sum(sizes), len(self.columns)
        self._ends = np.cumsum(sizes)
        self.chunk_rows = max(sizes, default=1) or 1

    def read(self, start, stop):
        first, last = np.searchsorted(self._ends, [start, stop - 1], side="right")
        with _parquet(self._path) as file:
            table = file.read_row_groups(range(first, last + 1), self.columns)
        skipped = start - (self._ends[first - 1] if first else 0)
        columns = table.slice(skipped, stop - start).columns
        return np.column_stack([column.to_numpy() for column in columns])


def _numpy_dtype(arrow_type):
    """Object for a type that numpy has no numbers for."""
    try:
        return np.dtype(arrow_type.to_pandas_dtype())
    except (NotImplementedError, TypeError):
        return np.dtype(object)


def _parquet(path):
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ImportError(
            f"{path!r} needs pyarrow: pip install 'sklearn_samn[out-of-core]'."
        ) from error
    return ParquetFile(path)


# Writing ----------------------------------------------------------------------------


def check_out(out, shape, values, X):
    """Raise a ValueError unless an array of that shape can hold the values.

    Parameters
    ----------
    out : array-like
        Where results are to be written.
    shape : tuple
        Of the results.
    values : ndarray
        All values that a result can have, or some of their dtype.
    X : array-like or None
        The rows, if they are read while the results are written.
    """
    try:
        present, dtype = out.shape, out.dtype
    except AttributeError:
        dtype = None
    except Exception as error:
        raise ValueError(
            f"out, a {type(out).__name__}, cannot be looked at: {error}. Is its file "
            f"closed?"
        ) from error
    if not isinstance(dtype, np.dtype):
        raise ValueError(f"out is a {type(out).__name__}, but must be an array.")
    if present != shape:
        raise ValueError(f"out has the shape {present}, but needs {shape}.")
    if _is_read_only(out):
        raise ValueError("out is read-only: open it for writing.")
    if _is_ahead_of(out, X):
        raise ValueError(
            "out lies in the memory of X, whose rows would be written over before they "
            "are read: give it a place of its own, or let it begin where X does."
        )
    try:
        with np.errstate(all="ignore"):
            fits = (values.astype(out.dtype) == values).all()
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(
            f"out has the dtype {out.dtype}, which cannot hold the results, of dtype "
            f"{values.dtype}."
        )
    _reserve(out)


def _is_read_only(out):
    if isinstance(out, np.ndarray):
        return not out.flags.writeable
    # How zarr says it, and HDF5.
    mode = getattr(getattr(out, "file", None), "mode", None)
    return getattr(out, "read_only", False) or mode == "r"


def _is_ahead_of(out, X):
    """Whether results are put where rows still have to be read."""
    if not isinstance(out, np.ndarray) or not isinstance(X, np.ndarray):
        return False
    in_place = out.ctypes.data == X.ctypes.data and out.itemsize <= X.itemsize
    if in_place and out.strides == X.strides[: out.ndim]:
        return False
    ahead = out.ctypes.data > X.ctypes.data or out.strides[0] > X.strides[0]
    # Nor may a row of results reach into the next of X.
    ahead |= out[:1].size > 0 and _span(out[:1])[1] > X.strides[0]
    return ahead and np.shares_memory(out, X)


def _span(array):
    """From the first element, the bytes to the lowest address and beyond the highest.

    Examples
    --------
    >>> _span(np.zeros((4, 2))[:3]), _span(np.zeros(4)[::-1])
    ((0, 48), (-24, 8))
    """
    steps = [(n - 1) * s for n, s in zip(array.shape, array.strides, strict=True)]
    low, high = sum(s for s in steps if s < 0), sum(s for s in steps if s > 0)
    return low, high + array.itemsize


def _reserve(out):
    """Claim the disk space of a mapped file: a full disk would kill the process."""
    mapped = isinstance(out, np.memmap) and out.filename and out.mode != "c"
    if not mapped or not out.size or not hasattr(os, "posix_fallocate"):
        return
    # A slice has the offset of the whole.
    mapping = np.frombuffer(out._mmap, np.uint8).ctypes.data
    mapping -= out.offset - out.offset % mmap.ALLOCATIONGRANULARITY
    low, high = _span(out)
    start, n_bytes = out.ctypes.data - mapping + low, high - low
    try:
        with open(out.filename, "r+b") as file:
            # A shorter one is not the mapped one, but has its name by now.
            if os.fstat(file.fileno()).st_size >= start + n_bytes:
                os.posix_fallocate(file.fileno(), start, n_bytes)
    except OSError as error:
        if error.errno not in NO_ROOM:
            return
        raise OSError(
            f"There is no room for the {n_bytes} bytes of out in {out.filename}: "
            f"{error}. Nothing is written."
        ) from error


def _check_range(out, start, values):
    """Raise a ValueError for numbers that would become infinite in ``out``."""
    dtype = out.dtype
    if values.dtype.kind != "f" or np.can_cast(values.dtype, dtype):
        return
    with np.errstate(over="ignore"):
        beyond = np.isinf(values.astype(dtype)) & np.isfinite(values)
    if beyond.any():
        row = int(np.argwhere(beyond)[0][0])
        raise ValueError(
            f"Row {start + row} holds {values[beyond].flat[0]}, too large for out's "
            f"dtype {dtype}. The rows before are written."
        )


def write(out, start, values):
    """Put results into ``out`` from row ``start`` on."""
    stop = start + len(values)
    _check_range(out, start, values)
    try:
        out[start:stop] = values
        _forget_pages(out)
    except Exception as error:
        raise OSError(
            f"Rows {start} to {stop - 1} cannot be written into out: {error}. The rows "
            f"before are written."
        ) from error
