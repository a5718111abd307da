"""Recipes with open values, and the search for the values that are best."""
