"""Slides: open one of any supported format, read windows of its levels."""

from microtome.slides.base import BadTile, BadTiles, Level, Mpp, OnBadTile, Slide
from microtome.slides.opening import open_slide

__all__ = ["BadTile", "BadTiles", "Level", "Mpp", "OnBadTile", "Slide", "open_slide"]
