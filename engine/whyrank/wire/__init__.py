"""JSON, of all that speaks it: HTTP, the client, the command line and files.

The frozen types define what a row contains, and pydantic's adapters over them read and write it. The `*Response` types define
what differs on the wire: evidence is beside the score, not in an object of its own, and the document is left out.

responses.py   rows, rankings and events
requests.py    bodies of requests
"""
