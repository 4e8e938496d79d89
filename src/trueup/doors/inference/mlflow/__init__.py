"""MLflow's scoring protocol, as `mlflow models serve` speaks it and SageMaker hosts it."""
