"""Beds of texts: data, networks, and the models that are trained on them."""
