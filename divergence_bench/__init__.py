"""What people import and type: the public API and the command line."""
