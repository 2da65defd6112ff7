"""A load tester for one's own deployment: it starts runs as users would, and checks every event that comes back."""
