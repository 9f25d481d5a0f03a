"""Data sets of arXiv:1804.11214 that scikit-learn downloads."""

import numpy as np
from scipy.sparse import issparse
from sklearn.datasets import fetch_covtype, fetch_kddcup99, fetch_openml

from ._base import load_descr, make_bunch

COVER_TYPES = {1: "Spruce/Fir", 2: "Lodgepole Pine", 3: "Ponderosa Pine"}

# The groups of the DARPA evaluation. The attacks of the groups r2l and u2r are
# missing here because their rows are dropped.
CONNECTION_GROUPS = {
    "normal": "normal",
    "back": "dos",
    "land": "dos",
    "neptune": "dos",
    "pod": "dos",
    "smurf": "dos",
    "teardrop": "dos",
    "ipsweep": "probe",
    "nmap": "probe",
    "portsweep": "probe",
    "satan": "probe",
}
CONNECTION_STRINGS = ["protocol_type", "service", "flag"]


def fetch_covertype_3class(
    *,
    data_home=None,
    download_if_missing=True,
    return_X_y=False,
    as_frame=False,
    n_retries=3,
    delay=1.0,
):
    """Load the three largest classes of the forest covertype data set.

    The rows of :func:`sklearn.datasets.fetch_covtype` with the labels 1, 2 and 3,
    as in [1]_. It downloads the data if necessary, and shares its cache.

    =================   ======================================
    Classes                                                  3
    Samples per class   211840 (1), 283301 (2), 35754 (3)
    Samples total                                       530895
    Dimensionality                                          54
    Features                                               int
    =================   ======================================

    Parameters
    ----------
    data_home : str or path-like, default=None
        Folder of the downloaded data sets. By default `~/scikit_learn_data`.
    download_if_missing : bool, default=True
        If False, raise an OSError if the data is not in `data_home` instead of
        downloading it.
    return_X_y : bool, default=False
        If True, return ``(data, target)`` instead of a Bunch.
    as_frame : bool, default=False
        If True, return pandas objects. Requires pandas
        (``pip install sklearn_samn[pandas]``).
    n_retries : int, at least 1, default=3
        Number of retries when the download fails.
    delay : float, above 0, default=1.0
        Seconds between retries.

    Returns
    -------
    dataset : :class:`~sklearn.utils.Bunch`
        Dictionary-like object with the following attributes.

        data : {ndarray, DataFrame} of shape (530895, 54)
            The data matrix.
        target : {ndarray, Series} of shape (530895,)
            The labels, 1, 2 or 3.
        frame : DataFrame of shape (530895, 55) or None
            `data` and `target`, only with ``as_frame=True``.
        feature_names : list of str
            The names of the columns.
        target_names : list of str
            The names of the classes, in the order of the labels.
        categorical_features : list
            Empty: the categories of the source are indicator columns already.
        DESCR : str
            The full description.

    (data, target) : tuple if ``return_X_y`` is True
        The data matrix and the labels alone.

    Raises
    ------
    OSError
        If the data is not in `data_home` and `download_if_missing` is False, or
        the download fails.
    ImportError
        If `as_frame` is True and pandas is not installed.

    References
    ----------
    .. [1] Y. Xu and D. Klabjan, "k-Nearest Neighbors by Means of Sequence to
       Sequence Deep Neural Networks and Memory Networks", arXiv:1804.11214, 2018.

    Examples
    --------
    >>> from sklearn_samn.datasets import fetch_covertype_3class
    >>> covertype = fetch_covertype_3class()  # doctest: +SKIP
    >>> covertype.data.shape  # doctest: +SKIP
    (530895, 54)
    """
    source = fetch_covtype(
        data_home=data_home,
        download_if_missing=download_if_missing,
        n_retries=n_retries,
        delay=delay,
    )
    keep = np.isin(source.target, list(COVER_TYPES))
    return make_bunch(
        source.data[keep],
        source.target[keep],
        feature_names=source.feature_names,
        target_column="Cover_Type",
        target_names=list(COVER_TYPES.values()),
        return_X_y=return_X_y,
        as_frame=as_frame,
        DESCR=load_descr("covertype_3class.rst") + "\n" + source.DESCR,
    )


def fetch_network_intrusion_3class(
    *,
    data_home=None,
    percent10=True,
    download_if_missing=True,
    return_X_y=False,
    as_frame=False,
    n_retries=3,
    delay=1.0,
):
    """Load normal, dos and probe connections of the KDD Cup 1999 data set.

    The rows of :func:`sklearn.datasets.fetch_kddcup99` that are normal or belong to
    the groups of attacks dos (denial of service) and probe of the DARPA evaluation,
    three classes as in [1]_. The rows of the small groups r2l and u2r are dropped.
    It downloads the data if necessary, and shares its cache.

    =================   ================================================
    Classes                                                            3
    Samples per class   97278 (normal), 391458 (dos), 4107 (probe)
    Samples total                           492843 (with percent10=True)
    Dimensionality                                                    41
    Features                     discrete, continuous, three categorical
    =================   ================================================

    Parameters
    ----------
    data_home : str or path-like, default=None
        Folder of the downloaded data sets. By default `~/scikit_learn_data`.
    percent10 : bool, default=True
        Whether to load the file with 10 percent of the data. The full file has
        almost five million rows and needs a large memory while it is read.
    download_if_missing : bool, default=True
        If False, raise an OSError if the data is not in `data_home` instead of
        downloading it.
    return_X_y : bool, default=False
        If True, return ``(data, target)`` instead of a Bunch.
    as_frame : bool, default=False
        If True, return pandas objects: the columns of `categorical_features` and
        `target` have the dtype category, the others int64 or float64. Requires
        pandas (``pip install sklearn_samn[pandas]``).
    n_retries : int, at least 1, default=3
        Number of retries when the download fails.
    delay : float, above 0, default=1.0
        Seconds between retries.

    Returns
    -------
    dataset : :class:`~sklearn.utils.Bunch`
        Dictionary-like object with the following attributes.

        data : {ndarray, DataFrame} of shape (492843, 41)
            The data matrix. In an array, of dtype float64, the value `k` of a
            categorical column stands for `categories[name][k]`.
        target : {ndarray, Series} of shape (492843,)
            The labels, "normal", "dos" or "probe".
        frame : DataFrame of shape (492843, 42) or None
            `data` and `target`, only with ``as_frame=True``.
        feature_names : list of str
            The names of the columns.
        target_names : list of str
            The names of the classes, in the sorted order of the labels.
        categorical_features : list of str
            The names of the categorical columns.
        categories : dict of str to list of str
            The categories of each categorical column, in the order of their codes.
        DESCR : str
            The full description.

    (data, target) : tuple if ``return_X_y`` is True
        The data matrix and the labels alone.

    Raises
    ------
    OSError
        If the data is not in `data_home` and `download_if_missing` is False, the
        download fails, or the cached data cannot be read.
    ImportError
        If `as_frame` is True and pandas is not installed.

    References
    ----------
    .. [1] Y. Xu and D. Klabjan, "k-Nearest Neighbors by Means of Sequence to
       Sequence Deep Neural Networks and Memory Networks", arXiv:1804.11214, 2018.

    Examples
    --------
    >>> from sklearn_samn.datasets import fetch_network_intrusion_3class
    >>> intrusion = fetch_network_intrusion_3class()  # doctest: +SKIP
    >>> intrusion.data.shape  # doctest: +SKIP
    (492843, 41)
    >>> intrusion.categories["protocol_type"]  # doctest: +SKIP
    ['icmp', 'tcp', 'udp']
    """
    source = fetch_kddcup99(
        data_home=data_home,
        percent10=percent10,
        download_if_missing=download_if_missing,
        n_retries=n_retries,
        delay=delay,
    )
    target = group_connections(source.target)
    keep = target != ""
    data, target = source.data[keep], target[keep]

    categories = {}
    for name in CONNECTION_STRINGS:
        column = source.feature_names.index(name)
        # The source holds bytes; an array of strings decodes them.
        strings = data[:, column].astype("S").astype("U")
        values, codes = np.unique(strings, return_inverse=True)
        categories[name] = values.tolist()
        data[:, column] = strings if as_frame else codes
    return make_bunch(
        data if as_frame else data.astype(np.float64),
        target,
        feature_names=source.feature_names,
        target_column="labels",
        target_names=sorted(set(CONNECTION_GROUPS.values())),
        categorical_features=CONNECTION_STRINGS,
        categories=categories,
        return_X_y=return_X_y,
        as_frame=as_frame,
        DESCR=load_descr("network_intrusion_3class.rst") + "\n" + source.DESCR,
    )


def group_connections(labels):
    """Return the group of each connection.

    Parameters
    ----------
    labels : ndarray of shape (n_samples,)
        The labels of :func:`sklearn.datasets.fetch_kddcup99`, bytes with a dot at
        the end.

    Returns
    -------
    groups : ndarray of shape (n_samples,)
        "normal", "dos", "probe", or an empty string for any other label.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_samn.datasets._fetchers import group_connections
    >>> labels = np.array([b"smurf.", b"normal.", b"spy."], dtype=object)
    >>> group_connections(labels).tolist()
    ['dos', 'normal', '']
    """
    names, codes = np.unique(labels.astype("S"), return_inverse=True)
    names = np.char.rstrip(names.astype("U"), ".")
    groups = np.array([CONNECTION_GROUPS.get(name, "") for name in names])
    return groups[codes]


def fetch_sensit(
    *,
    data_home=None,
    return_X_y=False,
    as_frame=False,
    n_retries=3,
    delay=1.0,
):
    """Load the SensIT Vehicle (combined) data set (classification).

    The type of a vehicle from acoustic and seismic signals [1]_: version 1 of
    "SensIT-Vehicle-Combined" on OpenML, read by
    :func:`sklearn.datasets.fetch_openml`. It downloads the data if necessary, and
    shares its cache. The cache holds text that every call parses anew: keep the
    arrays if you need them often.

    =================   ==============
    Classes                          3
    Samples total                98528
    Dimensionality                 100
    Features                      real
    =================   ==============

    Parameters
    ----------
    data_home : str or path-like, default=None
        Folder of the downloaded data sets. By default `~/scikit_learn_data`.
    return_X_y : bool, default=False
        If True, return ``(data, target)`` instead of a Bunch.
    as_frame : bool, default=False
        If True, return pandas objects. Requires pandas
        (``pip install sklearn_samn[pandas]``).
    n_retries : int, at least 1, default=3
        Number of retries when the download fails.
    delay : float, above 0, default=1.0
        Seconds between retries.

    Returns
    -------
    dataset : :class:`~sklearn.utils.Bunch`
        Dictionary-like object with the following attributes.

        data : {ndarray, DataFrame} of shape (98528, 100)
            The data matrix, dense, of dtype float64.
        target : {ndarray, Series} of shape (98528,)
            The labels, 1, 2 or 3.
        frame : DataFrame of shape (98528, 101) or None
            `data` and `target`, only with ``as_frame=True``.
        feature_names : list of str
            The names of the columns.
        target_names : list of str
            The names of the classes, in the order of the labels. The source has no
            other names than the labels.
        categorical_features : list
            Empty: all columns are measurements.
        DESCR : str
            The full description.
        url : str
            The page of the data set on OpenML.

    (data, target) : tuple if ``return_X_y`` is True
        The data matrix and the labels alone.

    Raises
    ------
    OSError
        If the data is not in `data_home` and the download fails.
    ImportError
        If `as_frame` is True and pandas is not installed.

    References
    ----------
    .. [1] M. F. Duarte and Y. H. Hu, "Vehicle classification in distributed sensor
       networks", Journal of Parallel and Distributed Computing 64(7), 826-838,
       2004.

    Examples
    --------
    >>> from sklearn_samn.datasets import fetch_sensit
    >>> sensit = fetch_sensit()  # doctest: +SKIP
    >>> sensit.data.shape  # doctest: +SKIP
    (98528, 100)
    """
    source = fetch_openml(
        "SensIT-Vehicle-Combined",
        version=1,
        data_home=data_home,
        # The one parser that reads sparse data, and it does not need pandas.
        parser="liac-arff",
        as_frame=False,
        n_retries=n_retries,
        delay=delay,
    )
    data = source.data.toarray() if issparse(source.data) else source.data
    # OpenML serves labels as strings where it calls them nominal, else as floats.
    target = source.target.astype(np.float64).astype(np.int64)
    return make_bunch(
        data,
        target,
        feature_names=source.feature_names,
        target_column=source.target_names[0],
        target_names=[str(label) for label in np.unique(target)],
        return_X_y=return_X_y,
        as_frame=as_frame,
        DESCR=load_descr("sensit.rst") + "\n" + source.DESCR,
        url=source.url,
    )
