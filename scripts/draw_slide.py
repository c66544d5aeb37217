"""Draw an H&E-like slide with known nuclei: `python scripts/draw_slide.py OUT [--size-px N] [--seed N]`."""

import argparse
import time
from pathlib import Path

from drawn_slide import draw_slide


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="TIFF to make, e.g. drawn.svs; truth goes beside it")
    parser.add_argument(
        "--size-px", type=int, default=10_240, help="height and width, px at 0.25 um (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    began = time.monotonic()
    truth = draw_slide(options.out, options.size_px, options.seed)
    print(
        f"{options.out}, {options.size_px:,} x {options.size_px:,} px at 0.25 um/px, "
        f"{len(truth):,} drawn nuclei "
        f"(made in {time.monotonic() - began:.0f} s, seed {options.seed})"
    )


if __name__ == "__main__":
    main()
