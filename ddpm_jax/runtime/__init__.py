"""What a program runs on: devices as a mesh, compilation, random streams, several processes."""
