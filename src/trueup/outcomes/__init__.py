"""What really happened, and when it is due."""
