"""The nouns of trueup: frozen records and enums, free of any technology."""
