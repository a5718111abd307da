"""Codes of the operations that the row kernel runs; importing them compiles nothing."""

from __future__ import annotations

__all__ = [
    "ABOVE",
    "AGREE",
    "BAND",
    "BINARY",
    "CHOSEN",
    "COLUMNS",
    "COMPANION",
    "COMPETE",
    "DIVIDE",
    "DROP",
    "DROP_RANKED",
    "ELECT",
    "ELECT_AS",
    "ELECT_WEIGHED",
    "FUSE",
    "IMPORTANCES",
    "LARGEST",
    "MAGNITUDES",
    "NEAR",
    "NONZERO",
    "NORM",
    "NORM_BEFORE",
    "NOTHING",
    "PRECISION",
    "QUOTIENT",
    "RESTORE",
    "SCALE",
    "SCORES",
    "SHARED",
    "SQUARES",
    "SUM",
    "TIMES",
    "TRIM",
    "UNIQUE",
    "UNIQUE_COUNT",
    "VARIANCE",
    "VARIANCES",
]

TRIM = 0
"""Keep entries whose key is above a threshold, and the first so many at it."""
DROP = 1
"""Keep entries whose random word is below a limit."""
SCALE = 2
"""Multiply each input by its factor."""
ELECT = 3
"""Set entries to 0 whose sign is not that of the sum."""
BAND = 4
"""As TRIM, and set the entries above a second threshold to 0."""
DROP_RANKED = 5
"""As DROP with a probability for each element, which was prepared; ``factor`` 1 divides by it."""
ELECT_AS = 6
"""Set entries to 0 whose sign is not that of the first companion."""
ELECT_WEIGHED = 7
"""As ELECT; then multiply by the factors, and add those of the entries that stay to the divisor."""
LARGEST = 8
"""Keep only the entry of largest magnitude among the inputs, the first of equals."""
ABOVE = 9
"""Set entries to 0 whose magnitude is at most a limit."""
UNIQUE = 10
"""Multiply entries that are alone (the others are 0) by the input's factor."""
AGREE = 11
"""Consensus: set elements to 0 where fewer than ``factor`` inputs have |x| > limit × |sum − x|."""
CHOSEN = 12
"""A TALL mask: 1 where an input of factor 1 has |x| > limit × |sum − x|; 0 elsewhere and in the other inputs."""
RESTORE = 13
"""EMR: the unified entry where an input of factor 1 has its sign; 0 elsewhere and in the other inputs."""
BINARY = 14
"""The factor where an entry is not 0."""
VARIANCE = 15
"""Keep the elements whose variance over the inputs is above a threshold, and the first so many at it."""
COMPETE = 16
"""PCB: entries limited to a range and multiplied by their scores, which are added to the divisor."""
NEAR = 17
"""Multiply entries by min(1, limit / max(|x|, factor)), at least 0."""
FUSE = 18
"""Keep entries whose importance, |x| × the prepared number of its row, is at least a limit."""
TIMES = 19
"""Multiply entries by the input's companion."""
PRECISION = 20
"""Multiply entries by factor × max(companion, limit), which is added to the divisor."""
SUM = 21
"""End: the sum of the inputs."""
DIVIDE = 22
"""End: the sum, divided by the factors of the entries that are not 0."""
QUOTIENT = 23
"""End: the sum divided by the divisor, or by ``limit`` where that is smaller; where both are 0, the sum."""

MAGNITUDES, VARIANCES, SCORES, IMPORTANCES = 0, 1, 2, 3
"""What is ranked: |x|; the variance over the inputs (one row for all); PCB's scores, signed; FUSE's importances."""

NORM_BEFORE, NORM, SQUARES, SHARED, UNIQUE_COUNT, NONZERO, COMPANION = 0, 1, 2, 3, 4, 5, 6
"""Columns of what a measuring pass adds up for each input: Σ|x| of the inputs as they came, Σ|x|, Σx², entries that
another input has too, entries that no other has, elements whose variance is not 0 (in the first row), Σ companion²."""
COLUMNS = 7

NOTHING = 0x7FFFFFFF
"""A threshold above the key of every finite magnitude."""
