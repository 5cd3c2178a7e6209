"""Hand-made, label-free observables of a jet: what a textbook computes from an image in physical units."""

from jetmae.data.observables.jet import observable_names, observables

__all__ = ["observable_names", "observables"]
