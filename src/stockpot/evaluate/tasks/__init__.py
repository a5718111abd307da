"""The built-in kinds of tasks, one module each."""
