"""Default of credit card clients, the data set that ships with the package."""

import gzip
from importlib.resources import files

import numpy as np

from ._base import load_descr, make_bunch

DATA_MODULE = "sklearn_samn.datasets.data"
DATA_FILE_NAME = "credit_default.csv.gz"


def load_credit_default(*, return_X_y=False, as_frame=False):
    """Load the default of credit card clients data set (classification).

    Will a client fail to pay next month's credit card bill? Clients of a bank
    in Taiwan in 2005 [1]_, with the credit they had, who they are, and six months
    of bills and payments. The complete data set [2]_ ships with the package:
    nothing is downloaded.

    =================   ============================
    Classes                                        2
    Samples per class   23364 (paid), 6636 (default)
    Samples total                              30000
    Dimensionality                                23
    Features              integer, three categorical
    =================   ============================

    Parameters
    ----------
    return_X_y : bool, default=False
        If True, return ``(data, target)`` instead of a Bunch.
    as_frame : bool, default=False
        If True, return pandas objects: `data` with integer columns, those of
        `categorical_features` of dtype category, `target` a Series, and `frame`
        with both. Requires pandas (``pip install sklearn_samn[pandas]``).

    Returns
    -------
    dataset : :class:`~sklearn.utils.Bunch`
        Dictionary-like object with the following attributes.

        data : {ndarray, DataFrame} of shape (30000, 23)
            The data matrix, of dtype float64 unless `as_frame` is True.
        target : {ndarray, Series} of shape (30000,)
            1 for a client who defaulted, 0 for one who paid.
        frame : DataFrame of shape (30000, 24) or None
            `data` and `target`, only with ``as_frame=True``.
        feature_names : ndarray of shape (23,)
            The names of the columns.
        target_names : ndarray of shape (2,)
            The names of the classes, ``target_names[k]`` for label ``k``.
        categorical_features : list of str
            The names of the categorical columns. Their values are codes, not
            amounts.
        DESCR : str
            The full description, with the attribution the licence asks for.
        filename : str
            The name of the data file.
        data_module : str
            The package that holds the data file.

    (data, target) : tuple if ``return_X_y`` is True
        The data matrix and the labels alone.

    Raises
    ------
    ImportError
        If `as_frame` is True and pandas is not installed.

    References
    ----------
    .. [1] I-C. Yeh and C.-H. Lien, "The comparisons of data mining techniques
       for the predictive accuracy of probability of default of credit card
       clients", Expert Systems with Applications 36(2), 2473-2480, 2009.
    .. [2] I-C. Yeh, "Default of Credit Card Clients", UCI Machine Learning
       Repository, 2009. https://doi.org/10.24432/C55S3H, CC BY 4.0.

    Examples
    --------
    >>> from sklearn_samn.datasets import load_credit_default
    >>> credit = load_credit_default()
    >>> credit.data.shape
    (30000, 23)
    >>> credit.categorical_features
    ['SEX', 'EDUCATION', 'MARRIAGE']
    >>> [str(name) for name in credit.target_names]
    ['paid', 'default']
    """
    packed = files(DATA_MODULE).joinpath(DATA_FILE_NAME).read_bytes()
    header, *rows = gzip.decompress(packed).decode("ascii").splitlines()
    *feature_names, _ = header.split(",")
    values = np.loadtxt(rows, delimiter=",", dtype=np.int64)
    data, target = values[:, :-1], values[:, -1].copy()
    return make_bunch(
        # A frame keeps the integers; an array is of floats, as scikit-learn's are.
        data if as_frame else data.astype(np.float64),
        target,
        feature_names=np.array(feature_names),
        target_column="target",
        target_names=np.array(["paid", "default"]),
        categorical_features=["SEX", "EDUCATION", "MARRIAGE"],
        return_X_y=return_X_y,
        as_frame=as_frame,
        DESCR=load_descr("credit_default.rst"),
        filename=DATA_FILE_NAME,
        data_module=DATA_MODULE,
    )
