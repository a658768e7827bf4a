"""What a program runs on: a mesh of devices, compilation, random streams, several processes."""
