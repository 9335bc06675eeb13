"""whyrank's own routes: rerank.py, stream.py, score.py and pages.py, with their requests and responses in protocol.py."""
