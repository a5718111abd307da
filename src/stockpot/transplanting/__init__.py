"""Rows for tokens that a model does not know, from rows that it has: arithmetic only, no files, tokenizers or plans."""
