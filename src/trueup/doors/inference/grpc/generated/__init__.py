"""Made by `make proto` from ``open_inference.proto``; not edited by hand, and a test says whether it is up to date."""
