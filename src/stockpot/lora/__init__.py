"""Adapters out: merged, extracted from models, cut to another rank; written as PEFT reads them."""
