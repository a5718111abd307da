"""Recipes with open values: what may be open, and the plain recipe that values make."""
