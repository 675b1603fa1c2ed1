"""What lies between parties: frames as bytes, a session without I/O, channels, and gRPC in one file."""
