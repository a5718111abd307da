"""What tensor names say about a model: layers, what stands before and after them, tied weights."""
