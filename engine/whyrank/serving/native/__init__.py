"""whyrank's own routes, and in requests.py what they take."""
