"""whyrank over HTTP: routes inside `vllm serve`, or on plain uvicorn for checkpoints that need no vLLM.

launch.py      `whyrank serve`: defaults for reranking, then vLLM's own server
plugin.py      what vLLM loads: its engine client becomes a Service
plain.py       without vLLM: the same routes on plain uvicorn
service.py     one Reranker with admission, health and metrics around it: all that routes may call
admission.py   how much is let in at once (pure)
door.py        what every route has in front: key, size of the body, errors, freeing the engine when the caller leaves
answering.py   what all routes share: from requests to rankings
router.py      the native routes, and the list of all routers
others.py      the routes of others' dialects
dialects.py    the wire shapes of others, as thin translators (pure)
openapi.py     what OpenAPI tells: shapes of answers and errors, examples of requests
metrics.py     whyrank_* for Prometheus
playground/    one page for people
"""
