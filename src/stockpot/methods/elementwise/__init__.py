"""Methods that act on each element: sparsify, elect a sign, combine."""
