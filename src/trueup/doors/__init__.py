"""Where callers come in: each translates, calls the core, translates back."""
