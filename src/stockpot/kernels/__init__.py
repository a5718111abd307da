"""Compiled loops over blocks of tensor bytes: widen, combine, select, measure, narrow.

Every kernel takes raw bytes with dtype codes and works on short float64 rows that stay in the
processor's cache. None of them allocates memory that grows with the tensor, and all release the GIL.
"""
