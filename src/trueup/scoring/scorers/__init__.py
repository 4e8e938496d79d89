"""One file a model runtime."""
