"""The Open Inference Protocol, version 2: its documents, and the one mapping of contracts to tensors."""
