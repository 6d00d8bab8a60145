"""The process and its machine: the memory that the C library keeps."""
