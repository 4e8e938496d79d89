"""The stream door: instances and outcomes from Kafka, booked with their position in one transaction."""
