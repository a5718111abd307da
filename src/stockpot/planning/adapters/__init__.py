"""Models with adapters on them: which tensors change, and how."""
