"""Which contracts, versions and deployments exist."""
