"""MLflow's scoring protocol: `/invocations`, `/ping`, `/version`."""
