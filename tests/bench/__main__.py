"""Every figure of docs/performance.md, as a table and as JSON.

    python -m tests.bench [--quick] [--parts end,growth] [--rounds 3] [--gigapixels 0.1,1]

Asserts no time. Needs the shared test data (`MICROTOME_TEST_DATA`, or beside the checkout).
"""

import argparse
import compileall
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from microtome.cpu import machine_record
from tests.bench import (
    bench_conversion,
    bench_end_to_end,
    bench_engines,
    bench_growth,
    bench_official,
    bench_prefect,
    bench_s3,
    bench_scaling,
    bench_uploads,
    single,
)
from tests.bench.figures import Bench, Figure, Skipped, print_figure, print_header, write_json

ROOT = Path(__file__).resolve().parents[2]
PARTS: dict[str, Callable[[Bench], Iterator[Figure]]] = {
    "end": bench_end_to_end.figures,
    "ordinary": bench_end_to_end.ordinary,
    "engines": bench_engines.figures,
    "prefect": bench_prefect.figures,
    "official": bench_official.figures,
    "conversion": bench_conversion.figures,
    "workers": bench_scaling.real,
    "sleeping": bench_scaling.sleeping,
    "growth": bench_growth.figures,
    "s3": bench_s3.figures,
    "uploads": bench_uploads.figures,
    "network": single.network,
    "suppress": single.suppress,
}
QUICK = ("end", "sleeping", "growth", "suppress")


def main(arguments: Sequence[str]) -> int:
    options = _parse(arguments)
    data = Path(os.environ.get("MICROTOME_TEST_DATA", ROOT.parent / "shared" / "data")).resolve()
    if not data.is_dir():
        print(f"no test data in {data}; set MICROTOME_TEST_DATA to their folder", file=sys.stderr)
        return 2
    # As setup leaves it: else every process compiles what was edited since, if it is told to store nothing.
    compileall.compile_dir(ROOT / "microtome", quiet=1)
    machine = machine_record()
    print_header(machine)
    rows: list[Figure] = []
    skipped: dict[str, str] = {}
    failed: dict[str, str] = {}
    try:
        for name in options.parts:
            with tempfile.TemporaryDirectory(prefix="microtome-bench-", dir=options.work) as work:
                bench = Bench(
                    data=data,
                    work=Path(work),
                    cache=ROOT / ".state" / "bench",
                    quick=options.quick,
                    rounds=options.rounds,
                    gigapixels=options.gigapixels,
                )
                _measure(name, bench, rows, skipped, failed)
    finally:
        path = write_json(ROOT / "bench" / "results", machine, rows, skipped | failed)
        print(f"\n{path.relative_to(ROOT)}")
    return 1 if failed else 0


def _measure(
    name: str, bench: Bench, rows: list[Figure], skipped: dict[str, str], failed: dict[str, str]
) -> None:
    """One part; a wrong result or a command that fails costs its part alone."""
    try:
        for row in PARTS[name](bench):
            rows.append(row)
            print_figure(row)
    except Skipped as reason:
        skipped[name] = str(reason)
        print(f"{name:<11} skipped: {reason}", flush=True)
    except Exception as error:
        failed[name] = f"{type(error).__name__}: {error}"
        print(f"{name:<11} failed: {error}", flush=True)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the useful part, in under three minutes")
    parser.add_argument("--parts", type=lambda text: text.split(","), help=", ".join(PARTS))
    parser.add_argument("--rounds", type=int, help="of each comparison (3; quick: 1)")
    parser.add_argument("--gigapixels", type=lambda text: tuple(map(float, text.split(","))))
    parser.add_argument("--work", type=Path, help="where results are made and removed (the system's)")
    options = parser.parse_args(arguments)
    options.parts = options.parts or list(QUICK if options.quick else PARTS)
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds has to be at least 1")
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.gigapixels = options.gigapixels or ((0.1, 0.5) if options.quick else (0.1, 1.0, 5.0, 26.7))
    return options


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
