"""Data sets: one that ships with the package, three that scikit-learn downloads."""

from ._credit_default import load_credit_default
from ._fetchers import (
    fetch_covertype_3class,
    fetch_network_intrusion_3class,
    fetch_sensit,
)

__all__ = [
    "fetch_covertype_3class",
    "fetch_network_intrusion_3class",
    "fetch_sensit",
    "load_credit_default",
]
