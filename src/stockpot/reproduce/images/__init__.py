"""Beds of images: data, networks, and the models that are trained on them."""
