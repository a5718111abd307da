"""Mixtures of experts of dense models: routers from prompts, at random or trained, and how well they route."""
