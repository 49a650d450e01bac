"""Draws the generated sets that stand in for data which nobody can redistribute.

    python -m data.make_mini landmarks [--out data] [--train-landmarks 3000] [--seed 0] ...
    python -m data.make_mini products [--out data] [--train-products 564] [--seed 0] ...
    python -m data.make_mini streets [--out data] [--train-routes 80] [--seed 0] ...

`landmarks` writes a test side in the layout of Revisited Oxford (`<out>/mini_landmarks/`: jpg/,
gnd_mini_landmarks.pkl) and a train side in the layout of Google Landmarks v2 (`<out>/mini_gldv2/`:
train/a/b/c/<id>.jpg, train.csv, train_clean.csv, train.txt) with other landmarks.
`products` writes a set in the layout of Stanford Online Products (`<out>/mini_products/`:
<super_class>_final/<image>.JPG, Ebay_train.txt, Ebay_test.txt, Ebay_info.txt), its test products
unseen in training.
`streets` writes one set in two layouts: folders of UTM-named files as in the Visual
Geo-localization Benchmark (`<out>/mini_streets/images/{train,val,test}/{database,queries}/`) and
that of Mapillary Street-Level Sequences (`<out>/mini_msls/{train_val,test}/<city>/`), with other
cities in training, validation and test.
Each comes with a picture sheet; the same seed and sizes give the same bytes for any number of
workers.
"""

import argparse
import sys

from data import mini_landmarks, mini_products, mini_streets


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and draw the set."""
    parser = argparse.ArgumentParser(
        prog="python -m data.make_mini",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sets = parser.add_subparsers(dest="set", required=True)
    landmarks = sets.add_parser("landmarks", help="landmarks in the layouts of ROxf and GLDv2")
    mini_landmarks.add_arguments(landmarks)
    landmarks.set_defaults(make=mini_landmarks.make)
    products = sets.add_parser("products", help="products in the layout of SOP")
    mini_products.add_arguments(products)
    products.set_defaults(make=mini_products.make)
    streets = sets.add_parser("streets", help="streets as UTM-named folders and as MSLS")
    mini_streets.add_arguments(streets)
    streets.set_defaults(make=mini_streets.make)
    options = parser.parse_args(argv)
    try:
        options.make(options)
    except (OSError, ValueError) as error:
        print(f"make_mini: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("make_mini: interrupted; the same command goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
