"""whyrank's own routes; requests.py has their request types."""
