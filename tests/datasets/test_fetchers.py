"""Tests of the fetchers on small files in the form of scikit-learn's own caches."""

import gzip
import hashlib
import json
import re
import socket
import sys

import joblib
import numpy as np
import pytest

from sklearn_samn.datasets import (
    fetch_covertype_3class,
    fetch_network_intrusion_3class,
    fetch_sensit,
)

CONNECTION_STRINGS = ["protocol_type", "service", "flag"]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Answer every connection as a machine without a network does."""

    def refuse(*args, **kwargs):
        raise OSError("no network in the tests")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


@pytest.fixture
def covertype_home(tmp_path):
    """Cache two rows of each of the seven classes."""
    folder = tmp_path / "covertype"
    folder.mkdir()
    X = np.arange(14 * 54, dtype=np.float64).reshape(14, 54)
    y = np.tile(np.arange(7, 0, -1, dtype=np.int32), 2)
    joblib.dump(X, folder / "samples_py3", compress=9)
    joblib.dump(y, folder / "targets_py3", compress=9)
    return tmp_path


CONNECTIONS = [
    # protocol_type, service, flag, label, group
    (b"udp", b"private", b"SF", b"normal.", "normal"),
    (b"tcp", b"http", b"SF", b"back.", "dos"),
    (b"tcp", b"finger", b"S0", b"land.", "dos"),
    (b"tcp", b"private", b"S0", b"neptune.", "dos"),
    (b"icmp", b"ecr_i", b"SF", b"pod.", "dos"),
    (b"icmp", b"ecr_i", b"SF", b"smurf.", "dos"),
    (b"udp", b"private", b"SF", b"teardrop.", "dos"),
    (b"icmp", b"eco_i", b"SF", b"ipsweep.", "probe"),
    (b"tcp", b"telnet", b"SH", b"nmap.", "probe"),
    (b"tcp", b"private", b"REJ", b"portsweep.", "probe"),
    (b"tcp", b"smtp", b"RSTO", b"satan.", "probe"),
]
DROPPED = (
    b"ftp_write. guess_passwd. imap. multihop. phf. spy. warezclient. warezmaster. "
    b"buffer_overflow. loadmodule. perl. rootkit."
).split()


def cache_connections(folder):
    rows = [(b"tcp", b"dropped", b"OTH", label, None) for label in DROPPED]
    # A dropped row first, so that positions before and after the selection differ.
    rows = [rows[0], *CONNECTIONS, *rows[1:]]
    X = np.empty((len(rows), 41), dtype=object)
    X[:, :24] = np.arange(len(rows))[:, np.newaxis]
    X[:, 24:] = 0.25
    X[:, 1:4] = [row[:3] for row in rows]
    y = np.empty(len(rows), dtype=object)
    y[:] = [row[3] for row in rows]
    folder.mkdir()
    joblib.dump(X, folder / "samples", compress=3)
    joblib.dump(y, folder / "targets", compress=3)


@pytest.fixture
def intrusion_home(tmp_path):
    """Cache a row of each of the 23 labels."""
    cache_connections(tmp_path / "kddcup99_10-py3")
    return tmp_path


def cache_sensit(tmp_path, *, sparse, labels):
    """Write what the server answers: four JSON texts and an ARFF file."""
    features = ["V1", "V2", "V3"]
    rows = [[1, 0.5, 0, -1], [2, 0, 0.25, 0], [3, 0.125, 0, 0], [1, 0, 0, 2]]
    arff = ["@RELATION SensIT", f"@ATTRIBUTE class {labels}"]
    arff += [f"@ATTRIBUTE {name} NUMERIC" for name in features]
    arff += ["@DATA"]
    for row in rows:
        entries = [f"{j} {value}" for j, value in enumerate(row) if value]
        dense = ",".join(map(str, row))
        arff.append("{" + ",".join(entries) + "}" if sparse else dense)
    arff = "\n".join(arff) + "\n"

    def describe(index, name):
        nominal = name == "class" and labels != "NUMERIC"
        return {
            "index": str(index),
            "name": name,
            "data_type": "nominal" if nominal else "numeric",
            "is_target": "true" if name == "class" else "false",
            "is_ignore": "false",
            "is_row_identifier": "false",
            "number_of_missing_values": "0",
        }

    description = {
        "id": "7",
        "name": "SensIT-Vehicle-Combined",
        "version": "1",
        "status": "active",
        "description": "What OpenML says of it.",
        "format": "Sparse_ARFF" if sparse else "ARFF",
        "file_id": "77",
        "url": "https://www.openml.org/data/v1/download/77",
        "md5_checksum": hashlib.md5(arff.encode()).hexdigest(),
    }
    columns = [describe(j, name) for j, name in enumerate(["class", *features])]
    quality = {"name": "NumberOfInstances", "value": str(len(rows))}
    api = "api/v1/json/data"
    name = f"{api}/list/data_name/sensit-vehicle-combined/limit/2/data_version/1"
    answers = {
        name: {"data": {"dataset": [{"did": 7}]}},
        f"{api}/7": {"data_set_description": description},
        f"{api}/features/7": {"data_features": {"feature": columns}},
        f"{api}/qualities/7": {"data_qualities": {"quality": [quality]}},
    }
    texts = {path: json.dumps(answer) for path, answer in answers.items()}
    texts["data/v1/download/77"] = arff
    for path, text in texts.items():
        file = tmp_path / "openml" / "openml.org" / f"{path}.gz"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(gzip.compress(text.encode()))
    rows = np.array(rows)
    return rows[:, 1:], rows[:, 0]


@pytest.fixture
def sensit_home(tmp_path):
    """Cache four sparse rows."""
    cache_sensit(tmp_path, sparse=True, labels="{1,2,3}")
    return tmp_path


def test_covertype(covertype_home):
    dataset = fetch_covertype_3class(data_home=covertype_home)
    assert dataset.data.dtype == np.float64
    assert dataset.target.dtype == np.int32
    assert dataset.target.tolist() == [3, 2, 1, 3, 2, 1]
    # The first column of the rows counts up in steps of 54.
    assert (dataset.data[:, 0] / 54).tolist() == [4, 5, 6, 11, 12, 13]
    assert dataset.data.shape == (6, 54)
    assert dataset.frame is None
    assert len(dataset.feature_names) == 54
    assert dataset.target_names == ["Spruce/Fir", "Lodgepole Pine", "Ponderosa Pine"]
    assert dataset.categorical_features == []
    assert "three largest classes" in dataset.DESCR
    assert "30×30m patches of forest" in dataset.DESCR


def test_intrusion(intrusion_home):
    dataset = fetch_network_intrusion_3class(data_home=intrusion_home)
    assert dataset.data.shape == (11, 41)
    assert dataset.data.dtype == np.float64
    assert dataset.data[:, 0].tolist() == list(range(1, 12))
    assert dataset.data[:, -1].tolist() == [0.25] * 11
    assert dataset.target.tolist() == [row[-1] for row in CONNECTIONS]
    assert dataset.target_names == ["dos", "normal", "probe"]
    assert dataset.target_names == np.unique(dataset.target).tolist()
    assert dataset.categorical_features == CONNECTION_STRINGS
    assert len(dataset.feature_names) == 41
    assert "denial of service" in dataset.DESCR
    assert "Kddcup 99" in dataset.DESCR


def test_intrusion_codes(intrusion_home):
    dataset = fetch_network_intrusion_3class(data_home=intrusion_home)
    assert list(dataset.categories) == CONNECTION_STRINGS
    for j, name in enumerate(CONNECTION_STRINGS):
        strings = [row[j].decode() for row in CONNECTIONS]
        assert dataset.categories[name] == sorted(set(strings))
        codes = dataset.data[:, dataset.feature_names.index(name)].astype(int)
        assert [dataset.categories[name][code] for code in codes] == strings


def test_intrusion_full_file(tmp_path):
    cache_connections(tmp_path / "kddcup99-py3")
    dataset = fetch_network_intrusion_3class(
        data_home=tmp_path, percent10=False, download_if_missing=False
    )
    assert dataset.data.shape == (11, 41)


def test_intrusion_as_frame(intrusion_home):
    pytest.importorskip("pandas")
    array = fetch_network_intrusion_3class(data_home=intrusion_home)
    dataset = fetch_network_intrusion_3class(data_home=intrusion_home, as_frame=True)
    assert dataset.frame.columns.tolist() == [*dataset.feature_names, "labels"]
    for j, (name, dtype) in enumerate(dataset.data.dtypes.items()):
        if name in CONNECTION_STRINGS:
            assert dtype == "category"
            categories = dataset.data[name].cat.categories.tolist()
            assert categories == dataset.categories[name] == array.categories[name]
            codes = dataset.data[name].cat.codes
            assert codes.tolist() == array.data[:, j].tolist()
        else:
            assert dtype == (np.int64 if j < 24 else np.float64)
            assert dataset.data[name].tolist() == array.data[:, j].tolist()
    assert dataset.target.dtype == "category"
    assert dataset.target.tolist() == array.target.tolist()


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("labels", ["{1,2,3}", "NUMERIC"])
def test_sensit(tmp_path, sparse, labels):
    X, y = cache_sensit(tmp_path, sparse=sparse, labels=labels)
    dataset = fetch_sensit(data_home=tmp_path)
    assert type(dataset.data) is np.ndarray
    assert dataset.data.dtype == np.float64
    assert dataset.target.dtype == np.int64
    np.testing.assert_array_equal(dataset.data, X)
    np.testing.assert_array_equal(dataset.target, y)
    assert dataset.frame is None
    assert dataset.feature_names == ["V1", "V2", "V3"]
    assert dataset.target_names == ["1", "2", "3"]
    assert dataset.categorical_features == []
    assert "SensIT Vehicle (combined)" in dataset.DESCR
    assert "What OpenML says of it." in dataset.DESCR
    assert dataset.url == "https://www.openml.org/d/7"


def test_arrays_need_no_pandas(sensit_home, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert fetch_sensit(data_home=sensit_home).data.shape == (4, 3)


FETCHERS = pytest.mark.parametrize(
    "fetch, home, target_column",
    [
        (fetch_covertype_3class, "covertype_home", "Cover_Type"),
        (fetch_network_intrusion_3class, "intrusion_home", "labels"),
        (fetch_sensit, "sensit_home", "class"),
    ],
)


@FETCHERS
def test_return_X_y(fetch, home, target_column, request):
    data_home = request.getfixturevalue(home)
    dataset = fetch(data_home=data_home)
    X, y = fetch(data_home=data_home, return_X_y=True)
    np.testing.assert_array_equal(X, dataset.data)
    np.testing.assert_array_equal(y, dataset.target)


@FETCHERS
def test_as_frame(fetch, home, target_column, request):
    pd = pytest.importorskip("pandas")
    data_home = request.getfixturevalue(home)
    array = fetch(data_home=data_home)
    dataset = fetch(data_home=data_home, as_frame=True)
    columns = [*array.feature_names, target_column]
    assert dataset.frame.columns.tolist() == columns
    assert dataset.frame.index.tolist() == list(range(len(array.target)))
    assert dataset.target.name == target_column
    np.testing.assert_array_equal(dataset.target, array.target)
    X, y = fetch(data_home=data_home, as_frame=True, return_X_y=True)
    pd.testing.assert_frame_equal(X, dataset.data)
    pd.testing.assert_frame_equal(dataset.frame[array.feature_names], X)
    pd.testing.assert_series_equal(y, dataset.target)
    pd.testing.assert_series_equal(dataset.frame[target_column], y)


@FETCHERS
def test_message_without_pandas(fetch, home, target_column, request, monkeypatch):
    data_home = request.getfixturevalue(home)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=re.escape("sklearn_samn[pandas]")):
        fetch(data_home=data_home, as_frame=True)


@pytest.mark.parametrize(
    "fetch", [fetch_covertype_3class, fetch_network_intrusion_3class]
)
def test_nothing_cached(fetch, tmp_path):
    with pytest.raises(OSError, match="Data not found"):
        fetch(data_home=tmp_path, download_if_missing=False)


@pytest.mark.parametrize(
    "fetch", [fetch_covertype_3class, fetch_network_intrusion_3class, fetch_sensit]
)
@pytest.mark.filterwarnings("ignore:.*network:UserWarning")
@pytest.mark.filterwarnings("ignore:Retry downloading:UserWarning")
def test_download_fails(fetch, tmp_path):
    with pytest.raises(OSError, match="no network in the tests"):
        fetch(data_home=tmp_path, n_retries=1, delay=1e-3)


def test_broken_cache(intrusion_home):
    (intrusion_home / "kddcup99_10-py3" / "samples").write_bytes(b"broken")
    with pytest.raises(OSError, match="cache for fetch_kddcup99 is invalid"):
        fetch_network_intrusion_3class(data_home=intrusion_home)


def test_arguments_reach_the_fetcher(covertype_home):
    with pytest.raises(ValueError, match="n_retries"):
        fetch_covertype_3class(data_home=covertype_home, n_retries=0)
