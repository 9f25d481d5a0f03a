"""Settings that must be there before SciPy is imported."""

import os

# scikit-learn skips its array API check without it.
os.environ.setdefault("SCIPY_ARRAY_API", "1")
