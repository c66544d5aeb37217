"""Microtome: a pathology slide in, every nucleus found and outlined, a labelled pyramid out.

In a notebook::

    import microtome as mt

    slide = mt.open_slide("S-001.svs")
    nuclei = mt.segment_window(slide, mt.Window(4000, 6000, 5000, 7000))
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from microtome.fields import segment_window
    from microtome.grid import Window
    from microtome.nuclei import Nuclei
    from microtome.slides import open_slide
    from microtome.testing import verify_result

__version__ = "0.1.0"
__all__ = ["Nuclei", "Window", "open_slide", "segment_window", "verify_result"]

_HOMES = {
    "Nuclei": "nuclei",
    "Window": "grid",
    "open_slide": "slides",
    "segment_window": "fields",
    "verify_result": "testing",
}
"""Loaded when first used: importing microtome loads neither OpenVINO nor Dask."""


def __getattr__(name: str) -> object:
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module 'microtome' has no attribute {name!r}") from None
    return getattr(import_module(f"microtome.{home}"), name)
