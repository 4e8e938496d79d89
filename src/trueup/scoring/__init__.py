"""The scoring path: resolve, validate, predict, book."""
