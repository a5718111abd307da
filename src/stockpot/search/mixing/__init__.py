"""Soups whose members have weights: learned by gradients, or made of the members' losses."""
