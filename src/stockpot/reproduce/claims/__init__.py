"""The claims, by kind. Each is measured in one way on all its beds."""
