"""Methods that treat a weight as a matrix: singular vectors, projections, Gram matrices."""
