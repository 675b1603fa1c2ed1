"""What lies between parties: frames, a protocol without I/O, channels, and transports."""
