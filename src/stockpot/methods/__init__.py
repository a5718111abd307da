"""Merging methods: arithmetic on tensors, declared once in one registry.

Adding a method is one file in ``span/`` or ``elementwise/`` and one line in :mod:`.registry`.
"""
