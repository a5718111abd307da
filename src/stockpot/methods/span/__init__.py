"""Methods whose output is a linear combination of their inputs, coefficients from the Gram matrix."""
