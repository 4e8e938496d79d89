"""How the bytes of a record become instances: one file a format."""
