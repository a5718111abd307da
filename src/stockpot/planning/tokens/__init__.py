"""Models seen with another vocabulary: rows matched by tokens, and the files of the tokenizer."""
