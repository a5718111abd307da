"""GGUF files, as llama.cpp has them: header, number formats, and what their names and metadata mean."""
