"""Reports: SQL files whose results are kept, drawn and sent."""
