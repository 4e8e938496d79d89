"""The Open Inference Protocol over gRPC, with its health service and reflection."""
