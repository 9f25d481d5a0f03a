"""What the networks see: robustly scaled, smoothly clipped features."""

import numpy as np

# Scaled values end up between -CLIP and CLIP.
CLIP = 3.0
# A scaled value that is as good as infinite, and whose square fits into float32.
FAR_OUT = 1e15


def robust_statistics(X):
    """Centre and scale of each column: its median and its interquartile range.

    A column whose interquartile range is zero is scaled by half its range, a constant
    column by one.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Rows.

    Returns
    -------
    center, scale : ndarray of shape (n_features,)
        Medians, and what the centred columns are divided by.

    Examples
    --------
    >>> import numpy as np
    >>> center, scale = robust_statistics(np.array([[0.0, 7], [1, 7], [2, 7], [9, 7]]))
    >>> center.tolist(), scale.tolist()
    ([1.5, 7.0], [3.0, 1.0])
    """
    # Columns in a row each are twice as fast to sort; of halves, none overflows.
    columns = np.ascontiguousarray(X.T) / 2
    low, center, high = np.quantile(columns, [0.25, 0.5, 0.75], axis=1)
    with np.errstate(over="ignore"):
        scale = np.minimum(2 * (high - low), np.finfo(float).max)
    tied = scale == 0
    scale[tied] = np.ptp(columns[tied], axis=1)
    scale[scale == 0] = 1.0
    return 2 * center, scale


def robust_clip(X, statistics, dtype):
    """Scale, then clip smoothly: z / sqrt(1 + (z / 3)^2), z = (x - centre) / scale.

    Nearly linear around the median and flat far out, so that an outlier of 1e12 neither
    hides the rest of its column (unless three quarters of that are tied) nor reaches
    the network.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Rows.
    statistics : tuple (center, scale) or None
        From :func:`robust_statistics`; None leaves the features as they are.
    dtype : numpy dtype
        Of the result.

    Returns
    -------
    ndarray of shape (n_samples, n_features)
        Rows within [-3, 3].

    Examples
    --------
    >>> import numpy as np
    >>> statistics = np.zeros(1), np.ones(1)
    >>> robust_clip(np.array([[0.1], [1e12]]), statistics, float).round(3).tolist()
    [[0.1], [3.0]]
    """
    # Row by row in memory, whatever the order of X (a frame's is by column): the last
    # bits of a matrix product depend on it.
    if statistics is None:
        return X.astype(dtype, order="C")
    center, scale = statistics
    with np.errstate(over="ignore"):
        # Centre before the cast: a timestamp has no digits to lose in float32.
        Z = X - center
        Z /= scale
        Z = Z.astype(dtype, order="C", copy=False)
    np.clip(Z, -FAR_OUT, FAR_OUT, out=Z)
    root = np.square(Z / CLIP)
    root += 1
    Z /= np.sqrt(root, out=root)
    return Z


def undo_robust_clip(Z, statistics):
    """Rows in the units they came in; what reaches the clip maps far out, finite."""
    Z = np.asarray(Z, dtype=float)
    if statistics is None:
        return Z
    center, scale = statistics
    inside = np.clip(Z / CLIP, -0.999, 0.999)
    return CLIP * inside / np.sqrt(1 - inside**2) * scale + center
