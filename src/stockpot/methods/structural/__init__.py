"""Methods that move tensors instead of computing them."""
