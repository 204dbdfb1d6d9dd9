"""The demonstration: private servers, a live writer, the service killed and brought back, and the proof at the end."""
