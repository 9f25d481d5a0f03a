"""What the loaders share: descriptions, and the form of what they return."""

from importlib.resources import files

from sklearn.utils import Bunch


def load_descr(file_name):
    """Read a description that ships with the package.

    Parameters
    ----------
    file_name : str
        Name of a file in ``sklearn_samn/datasets/descr``.

    Returns
    -------
    descr : str
        The text, in reStructuredText.
    """
    folder = files("sklearn_samn.datasets.descr")
    return folder.joinpath(file_name).read_text(encoding="utf-8")


def to_pandas(data, target, *, feature_names, target_column, categorical_features):
    """Turn arrays into pandas objects whose columns have dtypes of their own.

    Parameters
    ----------
    data : ndarray of shape (n_samples, n_features)
        The data matrix. Columns of an array of objects get the dtype of their
        values.
    target : ndarray of shape (n_samples,)
        The labels. Strings become a categorical Series.
    feature_names : sequence of str
        The names of the columns of `data`.
    target_column : str
        The name of the target.
    categorical_features : sequence of str
        The names of the columns to make categorical.

    Returns
    -------
    frame : DataFrame of shape (n_samples, n_features + 1)
        Data and target.
    data : DataFrame of shape (n_samples, n_features)
        The data matrix.
    target : Series of shape (n_samples,)
        The labels.

    Raises
    ------
    ImportError
        If pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError as exc:
        raise ImportError(
            "as_frame=True requires pandas. Install it with "
            "`pip install sklearn_samn[pandas]`, or use as_frame=False."
        ) from exc
    dtypes = dict.fromkeys(categorical_features, "category")
    data = pd.DataFrame(data, columns=feature_names).infer_objects().astype(dtypes)
    target = pd.Series(target, name=target_column)
    if not pd.api.types.is_numeric_dtype(target):
        target = target.astype("category")
    return pd.concat([data, target], axis=1), data, target


def make_bunch(
    data,
    target,
    *,
    feature_names,
    target_column,
    return_X_y,
    as_frame,
    categorical_features=(),
    **entries,
):
    """Return the data in the form the caller of a loader asked for.

    Parameters
    ----------
    data : ndarray of shape (n_samples, n_features)
        The data matrix.
    target : ndarray of shape (n_samples,)
        The labels.
    feature_names : sequence of str
        The names of the columns of `data`.
    target_column : str
        The name of the target in a frame.
    return_X_y : bool
        Whether to return a tuple instead of a Bunch.
    as_frame : bool
        Whether to return pandas objects instead of arrays.
    categorical_features : sequence of str, default=()
        The names of the categorical columns.
    **entries : dict
        Further entries of the Bunch.

    Returns
    -------
    dataset : :class:`~sklearn.utils.Bunch` or tuple
        The Bunch, or ``(data, target)`` if `return_X_y` is True.
    """
    frame = None
    if as_frame:
        frame, data, target = to_pandas(
            data,
            target,
            feature_names=feature_names,
            target_column=target_column,
            categorical_features=categorical_features,
        )
    if return_X_y:
        return data, target
    return Bunch(
        data=data,
        target=target,
        frame=frame,
        feature_names=feature_names,
        categorical_features=list(categorical_features),
        **entries,
    )
