"""Carrying out a plan: read blocks, compute, write them at their final place."""
