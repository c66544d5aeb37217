"""A drawn slide with known nuclei: something to try the pipeline on without downloading anything.

It looks like H&E tissue at 0.25 um/px and is none: its TIFF says so in its description.
"""

from drawn_slide.file import draw_slide, truth_path
from drawn_slide.truth import Truth, score

__all__ = ["Truth", "draw_slide", "score", "truth_path"]
