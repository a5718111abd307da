"""Vocabularies: which tokens a model has, read from its folder and united with others'; no tensor is read."""
