"""Several processes behind one port: who starts and keeps them, and what each of them does."""
