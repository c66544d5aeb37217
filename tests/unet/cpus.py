"""What a network gives on CPUs of other kinds: this one's numba is told that it is one of them."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from microtome.cpu import machine_record

CPUS = {
    "this one": {},
    "no VNNI": {
        "NUMBA_CPU_NAME": "skylake-avx512",
        "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma,+avx512f,+avx512bw,+avx512dq,+avx512vl",
    },
    "no AVX-512": {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma"},
    "no FMA": {"NUMBA_CPU_NAME": "nehalem", "NUMBA_CPU_FEATURES": "+sse4.2,-avx,-fma"},
}
SCRIPT = """
import zlib
import numpy as np
from tests.unet.{test} import unet_of
from tests.unet.networks import PLAIN, heads_of, noise
from microtome.unet.{kernels} import {kernel} as kernel
heads = heads_of(unet_of(PLAIN), noise(96, 160))
code = "".join(kernel.inspect_asm().values())
print("%zmm" in code, "vpdp" in code, f"{{np.abs(heads).mean():.4f}}", zlib.crc32(heads.tobytes()))
"""


class Given(NamedTuple):
    """By one kind of CPU."""

    wide: bool
    """By vectors of 512 bits."""
    vnni: bool
    mean: float
    """Of the heads' numbers."""
    bits: int
    """A digest of them."""


def given_on(cpu: str, cache: Path, *, test: str, kernels: str, kernel: str) -> Given:
    """What the plain network of a test's `unet_of` gives."""
    if "avx512f" not in machine_record().flags:
        pytest.skip("this CPU has no AVX-512: what it would give cannot be had here")
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(test=test, kernels=kernels, kernel=kernel)],
        env=os.environ | {"NUMBA_CACHE_DIR": str(cache)} | CPUS[cpu],
        capture_output=True,
        text=True,
        check=True,
    )
    wide, vnni, mean, bits = run.stdout.split()
    return Given(wide == "True", vnni == "True", float(mean), int(bits))
