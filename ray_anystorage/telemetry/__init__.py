"""What listens to storage events in every process: structured logs, and OpenTelemetry spans for whoever takes them."""
