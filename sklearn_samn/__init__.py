"""Classifiers and an oversampler that learn from other samples."""

__version__ = "0.1.0"
