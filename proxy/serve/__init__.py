"""The stories: what happens to one client, one request, the whole process."""
