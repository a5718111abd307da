"""The recipe language: YAML text → Expression, with the line of every key for errors."""
