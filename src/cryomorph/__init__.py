"""cryomorph: from frozen single-particle cryo-EM images to the continuum of structures they were taken of."""

__version__ = "0.1.0"
