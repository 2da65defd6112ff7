"""What operators see, over HTTP and on the command line: everybody's sessions and runs, and how the system is."""
