"""Searching over recipes with holes."""
