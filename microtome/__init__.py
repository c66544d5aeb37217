"""Microtome: a pathology slide in, every nucleus found and outlined, a labelled pyramid out."""

__version__ = "0.1.0"
